"""METok against plain loops in float64, and its events, levels and budgets by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.metok import METok
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, *, scenes: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Features, tokens in the space of the question, and the question."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(frames) * scenes // frames
    look = torch.randn(scenes, rows, cols, 10, generator=generator)[scene]
    return {
        "features": look + 0.5 * torch.randn(frames, rows, cols, 10, generator=generator),
        "image_embeds": torch.randn(frames, rows, cols, 7, generator=generator),
        "text_embeds": torch.randn(3, 7, generator=generator),
    }


def run(clip: dict[str, torch.Tensor], **options: Any) -> Reduction:
    signals = {name: clip[name] for name in ("image_embeds", "text_embeds")}
    return reduce_tokens(clip["features"], "metok", signals=signals, **options)


def unit(values: Floats) -> Floats:
    result: Floats = values / np.linalg.norm(values, axis=-1, keepdims=True)
    return result


def reference_levels(
    features: Floats, image: Floats, text: Floats, cuts: int, key_events: int, key_frames: int
) -> list[int]:
    """Level of each frame, for arrays (frames, tokens, channels) and (pieces, channels)."""
    look = unit(features.mean(1))
    similarity = (look[1:] * look[:-1]).sum(1)
    edges = [0, *sorted(int(i) + 1 for i in np.argsort(similarity, kind="stable")[:cuts]), len(look)]
    events = [range(a, b) for a, b in itertools.pairwise(edges)]
    relevance = unit(image.mean(1)) @ unit(unit(text).mean(0))
    ranked = sorted(range(len(events)), key=lambda e: -max(relevance[t] for t in events[e]))
    levels = [2] * len(look)
    for e, event in enumerate(events):
        for t in event:
            levels[t] = 1 if e in ranked[:key_events] else 2
        for t in sorted(event, key=lambda t: -relevance[t])[:key_frames]:
            levels[t] -= 1
    return levels


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((16, 8, 8), {"strides": (2, 4, 8)}),
        ((16, 9, 7), {"strides": (1, 2, 4), "num_key_frames": 2}),
        ((11, 7, 5), {"strides": [2, 3, 5], "num_cuts": 2, "num_key_events": 1, "num_key_frames": 1}),
        ((3, 6, 6), {"strides": (2, 4, 8)}),
        ((6, 6, 6), {"strides": (2, 4, 9), "num_cuts": 0, "num_key_frames": 0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_plain_loops(shape: tuple[int, int, int], options: dict[str, Any], seed: int) -> None:
    clip = made(*shape, seed=seed)
    frames, rows, cols = shape
    levels = reference_levels(
        clip["features"].double().numpy().reshape(frames, rows * cols, -1),
        clip["image_embeds"].double().numpy().reshape(frames, rows * cols, -1),
        clip["text_embeds"].double().numpy(),
        options.get("num_cuts", 4),
        options.get("num_key_events", 3),
        options.get("num_key_frames", 6),
    )
    expected = []
    for t, level in enumerate(levels):
        down, across = (-(-side // options["strides"][level]) for side in (rows, cols))
        for i in range(down):
            for j in range(across):
                down_range = slice(i * rows // down, (i + 1) * rows // down)
                across_range = slice(j * cols // across, (j + 1) * cols // across)
                block = clip["features"][t, down_range, across_range]
                expected.append(block.double().mean((0, 1)))
    reduction = run(clip, **options)
    torch.testing.assert_close(reduction.features.double(), torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert torch.equal(reduction.size.sum(), torch.tensor(float(frames * rows * cols)))


def test_released_levels() -> None:
    events = [(0, 8), (8, 9), (9, 12), (12, 20)]
    relevance = torch.cat([torch.arange(8) / 100, torch.tensor([0.5]), torch.tensor([0.1, 0.2, 0.1])])
    relevance = torch.cat([relevance, torch.full((8,), 0.06)])
    # best frames: 0.07, 0.5, 0.2, 0.06
    levels = METok().levels(events, relevance)
    assert levels == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("frames", [1, 3, 5, 6, 20])
def test_five_events_cover_the_clip(frames: int) -> None:
    looks = torch.randn(frames, 4, generator=torch.Generator().manual_seed(0))
    events = METok().events(looks)
    assert len(events) == min(5, frames)
    assert [start for start, _ in events] == [0, *(stop for _, stop in events[:-1])]
    assert events[-1][1] == frames


def test_pooled_counts_are_those_of_the_strides() -> None:
    clip = made(24, 14, 14)
    reduction = run(clip, strides=(1, 2, 4))
    per_frame = torch.bincount(reduction.index // 196, minlength=24)
    assert set(per_frame.tolist()) <= {196, 49, 16}
    assert METok(strides=(1, 2, 4)).layouts([0, 1, 2], VideoGrid(3, 27, 27)) == [(27, 27), (14, 14), (7, 7)]


@pytest.mark.parametrize("keep_ratio", [0.02, 0.1, 0.25, 0.5, 0.9])
def test_a_budget_is_approached_from_below(keep_ratio: float) -> None:
    clip = made(32, 14, 14)
    kept = len(run(clip, keep_ratio=keep_ratio))
    assert 0.88 * 6272 * keep_ratio <= kept <= 6272 * keep_ratio


def test_levels_have_room_for_four_times_as_many_blocks() -> None:
    method = METok(budget=Budget(keep_tokens=64 + 2 * 16 + 4 * 4))
    layouts = method.layouts([0, 1, 1, 2, 2, 2, 2], VideoGrid(7, 14, 14))
    assert layouts == [(8, 8), (4, 4), (4, 4), (2, 2), (2, 2), (2, 2), (2, 2)]
    whole = METok(budget=Budget(keep_tokens=196 * 3)).layouts([0, 1, 2], VideoGrid(3, 14, 14))
    assert whole == [(14, 14)] * 3


def test_one_frame_is_announced() -> None:
    assert METok(strides=(2, 4, 8)).count(VideoGrid(1, 9, 9)) == 25
    assert METok(budget=Budget(keep_ratio=0.25)).count(VideoGrid(1, 8, 8)) == 16
    assert METok(budget=Budget(keep_ratio=0.25)).count(VideoGrid(2, 8, 8)) is None
    assert METok().count(VideoGrid(2, 8, 8)) == 128


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_cuts": -1}, ValueError),
        ({"num_key_events": 1.5}, TypeError),
        ({"num_key_frames": None}, TypeError),
        ({"strides": (2, 4)}, TypeError),
        ({"strides": 2}, TypeError),
        ({"strides": (2, 4, 0)}, ValueError),
        ({"budget": Budget(keep_ratio=0.5), "strides": (2, 4, 8)}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(options)[-1]):
        METok(**options)
