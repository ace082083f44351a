"""Each architecture in training computes what its stock model computes from pixels and a single prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.train.attention import register
from streamprune.embedded.train.language import Shown, answer_logits_and_states, show
from streamprune.embedded.train.packing import encode
from streamprune.embedded.train.samples import Diet, plain
from streamprune.embedded.train.tokenizer import END, VIDEO
from streamprune.embedded.train.tower import pixels

BOTH = pytest.mark.parametrize("name", sorted(ARCHITECTURES))
_BLOCKS = ("language_model.layers", "visual.blocks")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: _sharp(architecture) for name, architecture in ARCHITECTURES.items()}


def _sharp(architecture: Architecture) -> Any:
    """Random weights made large, so that a wrong position, window or mask shows in the results."""
    torch.manual_seed(3)
    model = architecture.build().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and any(block in name for block in _BLOCKS):
                parameter.mul_(4.0 if "language" in name else 2.0)
    return model


def _all_shown(architecture: Architecture, visual: Tensor, frames: int) -> Shown:
    return show(architecture, visual, np.arange(visual.shape[1])[None], [range(frames)])


@BOTH
@pytest.mark.parametrize("frames", [1, 4])
def test_packed_questions_get_the_logits_of_stock_prompts(
    models: dict[str, Any], name: str, frames: int
) -> None:
    architecture, model = ARCHITECTURES[name], models[name]
    sample = plain(8, Diet(frames, questions=4))
    images = pixels(architecture.fill(sample.images))
    with torch.no_grad():
        tokens = architecture.tokens(model, architecture.patches(model, images)).flatten(0, 1)[None]
        shown = _all_shown(architecture, tokens, frames)
        logits = answer_logits_and_states(architecture, model, shown, [sample.questions])[0]
        start = 0
        opening, closing = architecture.frame.opening, architecture.frame.closing
        for question in sample.questions:
            answer = [*encode(question.answer), END]
            text = [*encode(question.text), END, opening[0], *encode("assistant")]
            prompt = [*opening, VIDEO, *closing, *text]
            inputs = architecture.stock_inputs([*prompt, *answer[:-1]], images)
            stock = model(**inputs).logits[0, -len(answer) :]
            assert stock.std() > 0.05
            torch.testing.assert_close(logits[start : start + len(answer)], stock, atol=2e-4, rtol=1e-3)
            start += len(answer)


@BOTH
def test_block_attention_equals_the_stock_one(models: dict[str, Any], name: str) -> None:
    architecture, model = ARCHITECTURES[name], models[name]
    sample = plain(5, Diet(10, questions=6))
    columns = 36 * architecture.slices(10)
    visual = torch.randn(1, columns, 192, generator=torch.Generator().manual_seed(0))
    text = model.model.language_model
    before = text.config._attn_implementation
    results: list[tuple[Tensor, Tensor]] = []
    for kind in ("eager", register()):
        text.set_attn_implementation(kind)
        model.zero_grad()
        shown = _all_shown(architecture, visual, 10)
        logits, targets, *_ = answer_logits_and_states(architecture, model, shown, [sample.questions])
        torch.autograd.backward(torch.nn.functional.cross_entropy(logits, targets))
        weight = text.layers[0].self_attn.k_proj.weight
        assert weight.grad is not None
        results.append((logits.detach(), weight.grad.clone()))
    text.set_attn_implementation(before)
    torch.testing.assert_close(results[1], results[0], atol=1e-4, rtol=1e-3)


@BOTH
def test_saved_folder_is_read_by_stock_classes(models: dict[str, Any], name: str, tmp_path: Path) -> None:
    architecture, model = ARCHITECTURES[name], models[name]
    architecture.save(tmp_path, model, architecture.pooling_head())
    assert AutoConfig.from_pretrained(tmp_path).model_type == architecture.model_type
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    content = [{"type": "video"}, {"type": "text", "text": "what color is the circle"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text)["input_ids"]
    at = ids.index(VIDEO)
    assert tuple(ids[:at]) == architecture.frame.opening
    assert tuple(ids[at + 1 :][: len(architecture.frame.closing)]) == architecture.frame.closing


def _change_at_the_first_patch(architecture: Architecture, model: Any) -> float:
    """How much the first patch's features change with pixels in the last corner."""
    frames = torch.zeros(2, 3, 96, 96)
    other = frames.clone()
    other[..., 80:, 80:] = 1
    with torch.no_grad():
        change = architecture.patches(model, frames) - architecture.patches(model, other)
    return float(change[0, 0].abs().max())


def test_windows_are_smaller_than_the_frame(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch far away changes nothing in the windowed first block, and something in the full second."""
    architecture, model = ARCHITECTURES["qwen2_5_vl"], models["qwen2_5_vl"]
    tower = model.model.visual
    blocks = tower.blocks
    assert list(tower.fullatt_block_indexes) == [1, 3]
    monkeypatch.setitem(tower._modules, "blocks", blocks[:1])
    assert _change_at_the_first_patch(architecture, model) == 0
    monkeypatch.setitem(tower._modules, "blocks", blocks[:2])
    assert _change_at_the_first_patch(architecture, model) > 1e-3


def test_words_after_a_video_start_where_the_longer_side_ends() -> None:
    architecture = ARCHITECTURES["qwen2_5_vl"]
    places = architecture.positions(range(16), np.array([0, 35, 36 * 7 + 13]), False)
    assert places.tolist() == [[3, 3, 10], [3, 8, 5], [3, 8, 4]]
    assert architecture.text_start(places, False) == 9
    stretched = architecture.positions(range(0, 32, 2), np.array([36 * 7]), False)
    assert stretched[0, 0] == 3 + 14
