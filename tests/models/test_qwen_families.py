"""Our route into Qwen-VL models against the stock one, on small models with weights that heed positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.errors import InvalidValueError, SignalError, UnsupportedModelError
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.preprocessing import Clip
from streamprune.models.question_signals import with_question
from streamprune.positions import Positions
from streamprune.reduce import run_reducer
from streamprune.registry import build_method
from streamprune.tokens import Reduction, VisualTokens
from tests.models.small_qwen import FAMILIES, TIMED, cut, patch_of, save_small_qwen

QUESTION = "what colour is the circle ?"
FRAMES = 7  # odd: the last slice holds one frame
SLICES = 4
SECONDS = 1.5  # between frames
TIMES = tuple(SECONDS * number for number in range(FRAMES))


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_qwen(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def family(folder: Path) -> VideoFamily:
    return load_model(folder)


@pytest.fixture(scope="module")
def pixels(family: VideoFamily) -> torch.Tensor:
    rng = np.random.default_rng(8)
    return family.preprocess([rng.integers(0, 256, (30, 50, 3), dtype=np.uint8) for _ in range(FRAMES)])


def encode(
    family: VideoFamily, pixels: torch.Tensor, batch: int = FRAMES, signals: tuple[str, ...] = ()
) -> VisualTokens:
    parts = []
    for start in range(0, len(pixels), batch):
        before = pixels[start - 2] if start else None
        parts.append(family.encode(pixels[start : start + batch], signals, before=before))
    joined = EncodedFrames.join(parts)
    return joined.tokens(family.signals(joined.signals), family.slice_times(TIMES[: len(pixels)]))


def prompt_of(family: VideoFamily, reduction: Reduction, **settings: Any) -> Any:
    return family.prompt(QUESTION, reduction, pts_seconds=family.slice_times(TIMES), **settings)


def stock_inputs(family: VideoFamily, pixels: torch.Tensor) -> dict[str, Any]:
    """What the stock processor gives: placeholders and times written out, frames cut into patches."""
    text = family.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    patch = patch_of(family.model_type)
    rows, cols = pixels.shape[2] // (2 * patch), pixels.shape[3] // (2 * patch)
    pad = "<|video_pad|>"
    video = pad * (SLICES * rows * cols)
    if family.model_type in TIMED:
        times = [(TIMES[2 * i] + TIMES[min(2 * i + 1, FRAMES - 1)]) / 2 for i in range(SLICES)]
        video = "".join(
            f"<{t:.1f} seconds><|vision_start|>{pad * (rows * cols)}<|vision_end|>" for t in times
        )
    ids = torch.tensor([family.tokenizer(text.replace(pad, video))["input_ids"]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": cut(torch.cat([pixels, pixels[-1:]]), patch=patch),
        "video_grid_thw": torch.tensor([[SLICES, 2 * rows, 2 * cols]]),
    }
    if family.model_type == "qwen2_5_omni":
        return {**inputs, "video_second_per_grid": torch.tensor([2 * SECONDS])}
    if family.model_type == "qwen2_5_vl":
        inputs["second_per_grid_ts"] = torch.tensor([2 * SECONDS])
    return {**inputs, "mm_token_type_ids": 2 * (ids == family.model.config.video_token_id).int()}


@torch.no_grad()
def logits(family: VideoFamily, inputs: dict[str, Any]) -> torch.Tensor:
    family.model.model.rope_deltas = None  # the stock model remembers the last prompt
    out: torch.Tensor = family.model(**inputs).logits[0]
    return out


def greedy(family: VideoFamily, inputs: dict[str, Any]) -> list[int]:
    length = inputs["input_ids"].shape[1]
    ids: list[int] = family.model.generate(**inputs, do_sample=False, max_new_tokens=8)[0, length:].tolist()
    return ids


def test_all_tokens_are_the_pixel_route_bit_for_bit(family: VideoFamily, pixels: torch.Tensor) -> None:
    prompt = prompt_of(family, Reduction.identity(encode(family, pixels)))
    stock = stock_inputs(family, pixels)
    assert torch.equal(prompt.input_ids, stock["input_ids"])
    assert len(prompt) == prompt.full_tokens
    assert torch.equal(logits(family, prompt.model_inputs()), logits(family, stock))
    assert greedy(family, prompt.model_inputs()) == greedy(family, stock)


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "eager"},
        {"dtype": "bfloat16"},
        {"attn_implementation": "eager", "dtype": "bfloat16"},
    ],
    ids=["eager", "bfloat16", "eager-bfloat16"],
)
def test_the_identity_holds_for_other_attention_and_numbers(
    folder: Path, pixels: torch.Tensor, settings: dict[str, Any]
) -> None:
    family = load_model(folder, **settings)
    prompt = prompt_of(family, Reduction.identity(encode(family, pixels)))
    stock = stock_inputs(family, pixels)
    assert torch.equal(logits(family, prompt.model_inputs()), logits(family, stock))
    assert greedy(family, prompt.model_inputs()) == greedy(family, stock)


@pytest.mark.parametrize("batch", [2, 4])
def test_parts_join_to_the_same_tokens(family: VideoFamily, pixels: torch.Tensor, batch: int) -> None:
    names = family.available_signals()
    whole, parts = encode(family, pixels, FRAMES, names), encode(family, pixels, batch, names)
    torch.testing.assert_close(parts.features, whole.features, rtol=0, atol=1e-5)
    for name in names:
        torch.testing.assert_close(parts.signals[name], whole.signals[name], rtol=1e-4, atol=1e-5)
    if whole.carried is not None:
        assert parts.carried is not None
        torch.testing.assert_close(parts.carried, whole.carried, rtol=0, atol=1e-5)


def test_shuffled_positions_would_be_noticed(family: VideoFamily, pixels: torch.Tensor) -> None:
    """On each axis alone; the identity above means something only because of this."""
    prompt = prompt_of(family, Reduction.identity(encode(family, pixels)))
    inputs = prompt.model_inputs()
    right = logits(family, inputs)
    places = prompt.kept_columns
    shuffled = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(0))]
    for axis in range(3):
        positions = prompt.position_ids.clone()
        positions[axis, 0, places] = prompt.position_ids[axis, 0, shuffled]
        wrong = logits(family, {**prompt.model_inputs(), "position_ids": positions})
        assert (wrong - right)[-1].abs().max() > 0.05, axis


@pytest.fixture(scope="module")
def attentive(family: VideoFamily, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    """The same with attention in all layers: recurrent ones cannot be told not to see a token."""
    if family.model_type != "qwen3_5":
        return family
    folder = tmp_path_factory.mktemp("attentive")
    return load_model(save_small_qwen(folder, "qwen3_5", layer_types=["full_attention"] * 4))


def test_dropped_tokens_equal_masked_ones(attentive: VideoFamily, pixels: torch.Tensor) -> None:
    """Keeping original positions must equal a full-length run in which nobody sees the dropped tokens."""
    family = attentive
    tokens = encode(family, pixels)
    everything = prompt_of(family, Reduction.identity(tokens))
    kept = torch.tensor([3, 4, 17, 40, 41, 66])
    prompt = prompt_of(family, Reduction.select(tokens, kept))
    seen = torch.ones(len(everything), dtype=torch.bool)
    seen[everything.kept_columns] = False
    seen[everything.kept_columns[kept]] = True
    masked = {**everything.model_inputs(), "attention_mask": seen.long()[None]}
    expected = logits(family, masked)[seen]
    assert (logits(family, prompt.model_inputs()) - expected).abs().max() <= 1e-5
    renumbered = prompt_of(family, Reduction.select(tokens, kept), positions="renumber")
    assert renumbered.position_ids.tolist() == [[list(range(len(prompt)))]] * 3
    assert (logits(family, renumbered.model_inputs()) - expected).abs().max() > 1e-2


def test_text_can_start_behind_the_furthest_position_of_the_video(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    """As transformers 5.2 had it; families that write out the times have it so anyway."""
    tokens = encode(family, pixels)
    stock = prompt_of(family, Reduction.identity(tokens)).position_ids[:, 0]
    prompt = prompt_of(family, Reduction.identity(tokens), positions=Positions(text_after="max"))
    after = int(prompt.kept_columns[-1]) + 1
    moved = prompt.position_ids[:, 0]
    assert torch.equal(moved[:, :after], stock[:, :after])
    first = int(stock[:, :after].max()) + 1
    assert moved[:, after:].tolist() == [list(range(first, first + moved.shape[1] - after))] * 3
    assert torch.equal(moved, stock) == (family.model_type != "qwen2_5_vl")


def test_clipped_positions_stay_on_three_axes(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels)
    kept = Reduction.select(tokens, torch.tensor([0, 70]))
    keep, clipped, renumber = (
        prompt_of(family, kept, positions=rule) for rule in ("keep", Positions("clipped", 1), "renumber")
    )
    assert renumber.reach < clipped.reach < keep.reach or family.model_type == "qwen2_vl"
    text = clipped.input_ids[0] != family.model.config.video_token_id
    assert torch.equal(*(clipped.position_ids[axis, 0, text] for axis in (0, 2)))
    outputs = [logits(family, prompt.model_inputs()) for prompt in (keep, clipped, renumber)]
    assert (outputs[1] - outputs[2]).abs().max() > 1e-2


def test_rows_stand_in_the_prompt_where_their_tokens_are(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels)
    everything = prompt_of(family, Reduction.identity(tokens))
    chosen = torch.tensor([70, 5, 30])
    by_hand = Reduction(
        tokens.grid, chosen, tokens.features[chosen], torch.arange(3), carried_in=tokens.carried
    )
    prompt = prompt_of(family, by_hand)
    assert torch.equal(
        prompt.position_ids[..., prompt.kept_columns],
        everything.position_ids[..., everything.kept_columns[chosen]],
    )
    assert torch.equal(prompt.visual[0], tokens.features[[5, 30, 70]])
    video = family.model.config.video_token_id
    assert (prompt.input_ids[0] == video).nonzero()[:, 0].tolist() == sorted(prompt.kept_columns.tolist())
    zero = prompt_of(family, Reduction.select(tokens, torch.tensor([5, -1])))
    assert torch.equal(
        zero.position_ids[..., zero.kept_columns[1]],
        everything.position_ids[..., everything.kept_columns[-1]],
    )


def test_lengths_are_foreseen(family: VideoFamily, pixels: torch.Tensor) -> None:
    tokens = encode(family, pixels)
    prompt = prompt_of(family, Reduction.identity(tokens))
    assert family.grid(FRAMES, (pixels.shape[2], pixels.shape[3])) == tokens.grid
    assert family.fixed_tokens(QUESTION, SLICES) + len(tokens) == len(prompt)


def test_merged_tokens_and_their_deepstack_rows_are_merged_alike(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    tokens = encode(family, pixels, signals=("saliency", "frame_features"))
    reduction = run_reducer(build_method("pre_llm", "fastvid", {"budget": Budget(0.25)}), tokens)
    weights = reduction.weights.to_dense()
    prompt = prompt_of(family, reduction)
    torch.testing.assert_close(prompt.visual[0], weights @ tokens.features, rtol=0, atol=1e-5)
    assert len(prompt.deepstack) == (3 if family.model_type == "qwen3_vl" else 0)
    for number, layer in enumerate(prompt.deepstack):
        assert tokens.carried is not None
        expected = weights @ tokens.carried[:, 64 * number : 64 * number + 64]
        torch.testing.assert_close(layer, expected, rtol=0, atol=1e-5)


def test_frame_attention_of_a_question_is_the_last_row_of_the_deep_layers(
    folder: Path, family: VideoFamily, pixels: torch.Tensor
) -> None:
    tokens = encode(family, pixels)
    found = with_question(family, QUESTION, tokens, ("query_frame_attention",))
    inputs = prompt_of(family, Reduction.identity(tokens))
    eager = load_model(folder, attn_implementation="eager").model
    with torch.no_grad():
        maps = eager(**inputs.model_inputs(), output_attentions=True).attentions
    assert len(maps) == (1 if family.model_type == "qwen3_5" else 4)  # others attend nowhere
    rows = torch.stack([one[0, :, -1, inputs.kept_columns] for one in maps[2 * len(maps) // 3 :]])
    shares = (rows / rows.sum(-1, keepdim=True)).mean((0, 1)).reshape(SLICES, -1).sum(1)
    torch.testing.assert_close(found.tokens.signals["query_frame_attention"], shares, rtol=0, atol=1e-5)
    assert shares.std() > 1e-3


def test_the_first_picture_says_how_large_all_are_shown(family: VideoFamily) -> None:
    rng = np.random.default_rng(9)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((30, 50, 3), (50, 30, 3), (64, 64, 3))]
    clip = Clip.of(images)
    together = family.preprocess(images)
    assert tuple(together.shape[2:]) == family.frame_size(clip)
    apart = torch.cat([family.preprocess([image], clip) for image in images])
    assert torch.equal(together, apart)


def test_colours_that_the_settings_do_not_name_are_those_of_the_stock_processor(family: VideoFamily) -> None:
    expected = (0.5, 0.5, 0.5) if family.model_type in TIMED else (0.48145466, 0.4578275, 0.40821073)
    assert family.transform.mean == expected


def test_what_is_not_supported_is_said(family: VideoFamily, pixels: torch.Tensor) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot run a method inside their vision tower"):
        family.encode(pixels, encoder=build_method("encoder", "tome", {}))
    with pytest.raises(SignalError, match=rf"{family.model_type} models cannot give the signal 'colour'"):
        family.encode(pixels, ("colour",))
    with pytest.raises(InvalidValueError, match=r"placeholders '<\|video_pad\|>' or '<\|image_pad\|>'"):
        family.prompt("what is <|image_pad|> ?", Reduction.identity(encode(family, pixels)))
