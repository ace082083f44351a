"""Signals of a question against what the stock language model shows when it runs eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from streamprune.errors import ContextLengthError, SignalError
from streamprune.models import question_signals
from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.question_signals import with_question
from streamprune.tokens import Reduction, VisualTokens
from tests.models.small_llava import save_small_llava

QUESTION = "what colour is the circle ?"
OTHER = "where is the big red square moving ?"


def make_tokens(family: VideoFamily, frames: int) -> VisualTokens:
    pixels = torch.randn(frames, 3, 28, 28, generator=torch.Generator().manual_seed(3))
    encoded = family.encode(pixels)
    return encoded.tokens(family.signals(encoded.signals))


def frame_attention(family: VideoFamily, tokens: VisualTokens, question: str = QUESTION) -> torch.Tensor:
    asked = with_question(family, question, tokens, ("query_frame_attention",))
    return asked.tokens.signal("query_frame_attention", (tokens.grid.frames,))


@torch.no_grad()
def eager_rows(folder: Path, prompt: Any) -> list[torch.Tensor]:
    """(heads, visual tokens) of every layer: the last row, over visual tokens alone."""
    model = load_model(folder, attn_implementation="eager").model
    maps = model(**prompt.model_inputs(), output_attentions=True).attentions
    rows = [layer[0, :, -1, prompt.kept_columns] for layer in maps]
    return [row / row.sum(-1, keepdim=True) for row in rows]


def test_frame_attention_is_the_last_row_of_the_deep_layers(small_folder: Path, family: VideoFamily) -> None:
    tokens = make_tokens(family, 5)
    found = frame_attention(family, tokens)
    prompt = family.prompt(QUESTION, Reduction.identity(tokens))
    by_layer = [row.mean(0).reshape(5, 16).sum(1) for row in eager_rows(small_folder, prompt)]
    torch.testing.assert_close(found, by_layer[2], rtol=0, atol=1e-5)  # of three layers, the last third
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert (by_layer[1] - by_layer[2]).abs().max() > 1e-2
    assert (frame_attention(family, tokens, OTHER) - found).abs().max() > 1e-3


def test_bfloat16_agrees_with_float32(small_folder: Path, family: VideoFamily) -> None:
    tokens = make_tokens(family, 5)
    half = load_model(small_folder, dtype="bfloat16")
    found = frame_attention(half, make_tokens(half, 5))
    torch.testing.assert_close(found, frame_attention(family, tokens), rtol=0, atol=2e-2)


@pytest.mark.parametrize(("room", "read"), [(92, 92), (91, 32), (32, 32), (31, 17), (17, 17)])
def test_of_a_long_video_only_every_second_row_and_column_is_read(
    family: VideoFamily, monkeypatch: pytest.MonkeyPatch, room: int, read: int
) -> None:
    """12 tokens besides those of five frames, of which 16, 4 or 1 are read."""
    tokens = make_tokens(family, 5)
    monkeypatch.setattr(question_signals, "LOOK_TOKENS", room)
    asked = with_question(family, QUESTION, tokens, ("query_frame_attention",))
    assert asked.read_tokens == read
    assert asked.tokens.signals["query_frame_attention"].shape == (5,)


def test_a_video_longer_than_the_context_is_read_in_part_at_renumbered_places(tmp_path: Path) -> None:
    family = load_model(save_small_llava(tmp_path, context_tokens=64))
    tokens = make_tokens(family, 12)
    found = frame_attention(family, tokens)
    flat = torch.arange(12 * 16).reshape(12, 4, 4)[:, ::2, ::2].flatten()
    prompt = family.prompt(QUESTION, Reduction.select(tokens, flat), positions="renumber")
    assert len(prompt) == 60
    expected = eager_rows(tmp_path, prompt)[2].mean(0).reshape(12, 4).sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(ContextLengthError):
        frame_attention(family, make_tokens(family, 60))


def test_text_embeds_are_the_input_embeddings_of_the_words(family: VideoFamily) -> None:
    asked = with_question(family, QUESTION, make_tokens(family, 2), ("text_embeds",))
    ids = family.tokenizer.convert_tokens_to_ids(QUESTION.split())
    expected = family.model.get_input_embeddings().weight[ids]
    assert torch.equal(asked.tokens.signal("text_embeds", (6, 48)), expected)
    assert not asked.tokens.signals["text_embeds"].requires_grad
    assert asked.read_tokens == 0


def test_the_videos_own_signals_stay_within_reach(family: VideoFamily) -> None:
    tokens = make_tokens(family, 2)
    asked = with_question(family, QUESTION, tokens, ("text_embeds",))
    with pytest.raises(SignalError, match="was not computed when this video was encoded"):
        asked.tokens.signal("keys", (2, 4, 4, 8))
    with pytest.raises(SignalError, match="belongs to a question"):
        tokens.signal("text_embeds", (None, 48))
    with pytest.raises(SignalError, match="'keys' does not belong to a question"):
        with_question(family, QUESTION, tokens, ("keys",))


def test_no_hook_stays(family: VideoFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = make_tokens(family, 2)
    frame_attention(family, tokens)

    def hooks() -> int:
        return sum(len(m._forward_pre_hooks) for m in family.model.modules())

    before = hooks()
    frame_attention(family, tokens)
    assert hooks() == before

    def broken(*args: object) -> torch.Tensor:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(question_signals, "rotate", broken)
    with pytest.raises(RuntimeError, match="out of luck"):
        frame_attention(family, tokens)
    assert hooks() == before
