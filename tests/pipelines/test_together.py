"""Several videos in one prompt: what the stock model is told and says when it sees all their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import (
    ContextLengthError,
    InvalidTypeError,
    InvalidValueError,
    RecipeError,
    UnsupportedModelError,
)
from streamprune.models.base import VideoFamily
from streamprune.models.chat_template import video_prompt_text
from streamprune.models.joint_prompt import joint_prompt
from streamprune.models.prompt import Prompt
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.pipelines.together import Videos
from streamprune.tokens import Reduction
from tests.models.small_qwen import cut
from tests.models.test_families import SAVE

QUESTION = "is the red circle moving ?"
FRAMES = 4
# whose prompts and pixels are put together here as their processors do it
STOCK = ["internvl", "llava_next_video", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl"]

SEVERAL = sorted(SAVE.keys() - {"minicpmv4_6"})


@pytest.fixture(scope="module")
def family_vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return load(SAVE[request.param](tmp_path_factory.mktemp(request.param)))


def noise(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def videos() -> list[Any]:
    return [noise(1, FRAMES, 40, 48), noise(2, FRAMES, 40, 48)]


def stock_inputs(family: VideoFamily, pixels: list[torch.Tensor]) -> dict[str, Any]:
    """Every placeholder of every video written out, with all their pixels."""
    text = video_prompt_text(family.tokenizer, QUESTION, videos=len(pixels))
    frames, rows, cols = len(pixels[0]), pixels[0].shape[2] // 8, pixels[0].shape[3] // 8
    mark, given = "<video>", {"pixel_values_videos": torch.stack(pixels)}
    if family.model_type == "internvl":
        named = (f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 16}</img>" for i in range(frames))
        video, given = "\n".join(named), {"pixel_values": torch.cat(pixels)}
    elif family.model_type.startswith("qwen"):
        mark = "<|video_pad|>"
        video = mark * (frames // 2 * rows * cols)
        if family.model_type == "qwen3_vl":  # the times of slices at 24 frames a second
            slices = (f"<0.{i} seconds><|vision_start|>{mark * (rows * cols)}<|vision_end|>" for i in (0, 1))
            video = "".join(slices)
        given = {"pixel_values_videos": torch.cat([cut(one) for one in pixels])}
        given["video_grid_thw"] = torch.tensor([[frames // 2, 2 * rows, 2 * cols]] * len(pixels))
        if family.model_type == "qwen2_5_vl":
            given["second_per_grid_ts"] = torch.ones(len(pixels))
    else:
        video = mark * (16 * frames + (family.model_type == "llava_onevision"))
    ids = torch.tensor([family.tokenizer(text.replace(mark, video))["input_ids"]])
    if family.model_type.startswith("qwen"):
        given["mm_token_type_ids"] = 2 * (ids == family.model.config.video_token_id).int()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **given}


def prompt_about(vlm: VideoLLM, videos: list[Any], step: int = 1) -> Prompt:
    """Every ``step``-th token of each, without times."""
    alone = []
    for video in videos:
        tokens = vlm.encode(video, signals=(), frames_per_batch=64).tokens
        kept = Reduction.select(tokens, torch.arange(0, len(tokens), step))
        alone.append(vlm.family.prompt(QUESTION, kept))
    return joint_prompt(vlm.family, QUESTION, alone)


@torch.no_grad()
def logits(vlm: VideoLLM, inputs: dict[str, Any]) -> torch.Tensor:
    if hasattr(vlm.family.model.model, "rope_deltas"):
        vlm.family.model.model.rope_deltas = None  # the stock model remembers the last prompt
    found: torch.Tensor = vlm.family.model(**inputs).logits[0]
    return found


@pytest.mark.parametrize("family_vlm", STOCK, indirect=True)
def test_all_tokens_are_the_pixel_route(family_vlm: VideoLLM, videos: list[Any]) -> None:
    family = family_vlm.family
    prompt = prompt_about(family_vlm, videos)
    stock = stock_inputs(family, [family.preprocess(list(video)) for video in videos])
    assert torch.equal(prompt.input_ids, stock["input_ids"])
    assert prompt.full_tokens == len(prompt)
    found, expected = logits(family_vlm, prompt.model_inputs()), logits(family_vlm, stock)
    assert (found - expected).abs().max() <= 1e-5
    swapped = logits(family_vlm, prompt_about(family_vlm, videos[::-1]).model_inputs())
    assert (found[-1] - swapped[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("family_vlm", ["minicpmv4_6"], indirect=True)
def test_families_that_number_their_videos_refuse(family_vlm: VideoLLM, videos: list[Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be shown several videos in one prompt"):
        family_vlm.ask(Videos(*videos), QUESTION)


@pytest.mark.parametrize("family_vlm", SEVERAL, indirect=True)
def test_what_is_kept_stays_where_it_was(family_vlm: VideoLLM, videos: list[Any]) -> None:
    whole, part = prompt_about(family_vlm, videos), prompt_about(family_vlm, videos, step=3)
    assert part.full_tokens == whole.full_tokens
    columns = whole.kept_columns
    share = len(columns) // 2
    kept = torch.cat([columns[:share:3], columns[share::3]])
    assert torch.equal(part.position_ids[..., part.kept_columns], whole.position_ids[..., kept])
    assert torch.equal(part.position_ids[..., -1], whole.position_ids[..., -1])
    assert torch.equal(part.input_ids[0, part.kept_columns], whole.input_ids[0, kept])


@pytest.mark.parametrize("family_vlm", SEVERAL, indirect=True)
def test_answers(family_vlm: VideoLLM, videos: list[Any]) -> None:
    settings: dict[str, Any] = {"recipe": "stride", "keep_ratio": 0.5, "max_new_tokens": 4}
    answer: Any = family_vlm.ask(Videos(videos[0], videos[1][:2]), QUESTION, **settings)
    alone = [family_vlm.ask(one, QUESTION, **settings).stats for one in (videos[0], videos[1][:2])]
    for name in ("frames", "tokens_in", "tokens_kept"):
        assert getattr(answer.stats, name) == sum(getattr(one, name) for one in alone)
    assert answer.stats.prompt_tokens < sum(one.prompt_tokens for one in alone)
    assert len(answer.pts_seconds) == answer.stats.frames
    assert answer.text


def test_one_of_them_is_the_video(vlm: VideoLLM, videos: list[Any]) -> None:
    alone = vlm.ask(videos[0], QUESTION, recipe="fastvid", keep_ratio=0.5, max_new_tokens=8)
    same: Any = vlm.ask(Videos(videos[0]), QUESTION, recipe="fastvid", keep_ratio=0.5, max_new_tokens=8)
    assert (same.text, same.stats.prompt_tokens) == (alone.text, alone.stats.prompt_tokens)


def test_questions_and_streams(vlm: VideoLLM, videos: list[Any]) -> None:
    both = Videos(videos[0], vlm.encode(videos[1]))
    assert repr(both) == "Videos(2 of them)"
    answer: Any = vlm.ask(both, QUESTION, max_new_tokens=8)
    answers = vlm.ask(both, [QUESTION, "what is it ?"], max_new_tokens=8)
    assert [one.question for one in answers] == [QUESTION, "what is it ?"]
    assert answers[0].text == answer.text
    assert "".join(vlm.ask(both, QUESTION, max_new_tokens=8, stream=True)) == answer.text


def test_calls_that_cannot_be_meant(vlm: VideoLLM, bare_vlm: VideoLLM, videos: list[Any]) -> None:
    with pytest.raises(InvalidValueError, match="at least one video"):
        Videos()
    with pytest.raises(InvalidTypeError, match="one by one"):
        Videos(videos)
    for recipe, stage in (("fastv", "in_llm"), ("snapkv", "kv")):
        with pytest.raises(RecipeError, match=f"stages {stage} take one video in a prompt"):
            vlm.ask(Videos(*videos), QUESTION, recipe=recipe, keep_ratio=0.5)
    with pytest.raises(ContextLengthError, match="more than the model's context of 64"):
        bare_vlm.ask(Videos(videos[0][:2], videos[1][:2]), QUESTION, max_new_tokens=4)
    with pytest.raises(InvalidTypeError, match="Videos"):
        vlm.chat(Videos(*videos))


def test_a_template_that_writes_them_otherwise_is_refused(
    vlm: VideoLLM, videos: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = vlm.encode(videos[0], signals=()).tokens
    alone = vlm.family.prompt(QUESTION, Reduction.identity(tokens))
    counting = "user {{ messages[0]['content'] | length }} <video> what"
    monkeypatch.setattr(vlm.family, "turn_template", lambda: counting)
    with pytest.raises(UnsupportedModelError, match="does not write several videos one after the other"):
        joint_prompt(vlm.family, QUESTION, [alone, alone])
