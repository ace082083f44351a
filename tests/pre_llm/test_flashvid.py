"""FlashVID against a float64 reference, its budgets by hand, and what its trees are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.flashvid import FlashVID, FrameBudget
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid
from tests.pre_llm.flashvid_reference import flashvid_reference


def made(
    frames: int, rows: int, cols: int, *, scenes: int = 2, seed: int = 0, drift: float = 1.2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose later places change more from frame to frame, and attention."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(frames) * scenes // frames
    noise = torch.linspace(0.1, drift, rows * cols).reshape(rows, cols, 1)
    features = torch.randn(scenes, rows, cols, 12, generator=generator)[scene] + 0.5
    features = features + noise * torch.randn(frames, rows, cols, 12, generator=generator)
    return features, torch.rand(frames, rows, cols, generator=generator)


def run(features: torch.Tensor, attention: torch.Tensor, **options: Any) -> Reduction:
    return reduce_tokens(features, "flashvid", signals={"received_attention": attention}, **options)


@pytest.mark.parametrize(
    ("shape", "keep_ratio", "options"),
    [
        ((9, 6, 6), 0.25, {"num_segments": 3}),
        ((8, 6, 6), 0.5, {"num_segments": 2, "as_released": False}),
        ((10, 5, 7), 0.3, {"num_segments": 2, "segment_threshold": -1.0, "link_threshold": 0.6}),
        (
            (10, 5, 7),
            0.3,
            {"num_segments": 1, "segment_threshold": -1.0, "salient_ratio": 0.2, "neighbors": 4},
        ),
        ((7, 6, 6), 0.4, {"num_segments": 7, "as_released": False, "selection": "div"}),
        ((7, 6, 6), 0.4, {"num_segments": 2, "selection": "attn_div_v2"}),
        (
            (7, 6, 6),
            0.2,
            {"num_segments": 1, "segment_threshold": -1.0, "selection": "attn", "expansion": 1.25},
        ),
        ((6, 6, 6), 0.3, {"salient_ratio": 0.0, "num_segments": 1}),
        ((6, 6, 6), 0.3, {"salient_ratio": 1.0}),
        ((8, 6, 6), 0.7, {"num_segments": 1, "segment_threshold": -1.0, "link_threshold": 0.0}),
        ((1, 6, 6), 0.3, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], keep_ratio: float, options: dict[str, Any], seed: int
) -> None:
    features, attention = made(*shape, seed=seed)
    reduction = run(features, attention, keep_ratio=keep_ratio, **options)
    expected = flashvid_reference(
        features.double().numpy().reshape(shape[0], -1, 12),
        attention.double().numpy().reshape(shape[0], -1),
        total=math.ceil(shape[1] * shape[2] * keep_ratio * options.get("expansion", 1.0)),
        alpha=options.get("salient_ratio", 0.7),
        selection=options.get("selection", "attn_div"),
        link=options.get("link_threshold", 0.8),
        num_segments=options.get("num_segments", 8),
        cut=options.get("segment_threshold", 0.9),
        neighbors=options.get("neighbors", 7),
        as_released=options.get("as_released", True),
    )
    assert reduction.index.tolist() == [token for token, _ in expected]
    np.testing.assert_allclose(reduction.features, np.stack([v for _, v in expected]), atol=2e-5)


@pytest.mark.parametrize(
    ("keep_ratio", "budget"),
    [(0.10, (18, 7)), (0.15, (26, 11)), (0.20, (35, 14)), (0.25, (44, 18))],
)
def test_released_budgets_of_196_tokens(keep_ratio: float, budget: tuple[int, int]) -> None:
    method = FlashVID(budget=Budget(keep_ratio=keep_ratio), expansion=1.25)
    assert method.frame_budget(VideoGrid(32, 14, 14)) == FrameBudget(*budget)


def test_released_budget_of_169_tokens_and_the_budget_without_expansion() -> None:
    grid = VideoGrid(32, 13, 13)
    assert FlashVID(budget=Budget(keep_ratio=0.1), expansion=1.25).frame_budget(grid) == FrameBudget(16, 6)
    assert FlashVID(budget=Budget(keep_ratio=0.1)).frame_budget(grid) == FrameBudget(12, 5)
    assert FlashVID(budget=Budget(keep_tokens=32 * 17)).frame_budget(grid) == FrameBudget(12, 5)
    assert FlashVID(budget=Budget(keep_ratio=0.9), expansion=1.25).frame_budget(grid) == FrameBudget(169, 0)


def test_without_merged_tokens_the_count_is_known() -> None:
    features, attention = made(6, 5, 5)
    reduction = run(features, attention, keep_ratio=0.3, salient_ratio=1.0)
    method = FlashVID(budget=Budget(keep_ratio=0.3), salient_ratio=1.0)
    assert len(reduction) == method.count(reduction.grid) == 6 * 8
    assert torch.equal(reduction.features, features.reshape(-1, 12)[reduction.index])
    assert FlashVID(budget=Budget(keep_ratio=0.3)).count(reduction.grid) is None


def test_constant_attention_is_farthest_point_picking() -> None:
    features, attention = made(5, 6, 6)
    options = {"keep_ratio": 0.2, "salient_ratio": 1.0}
    by_attention = run(features, torch.full_like(attention, 0.25), **options)
    by_distance = run(features, attention, selection="div", **options)
    assert torch.equal(by_attention.index, by_distance.index)


def test_a_budget_that_covers_a_frame_keeps_it() -> None:
    features, attention = made(6, 4, 4)
    reduction = run(features, attention, keep_ratio=0.9, expansion=1.25, selection="attn_div_v2")
    assert torch.equal(reduction.features, features.reshape(-1, 12))


@pytest.mark.parametrize("frames", [2, 5, 9])
def test_a_still_segment_keeps_its_first_frame_and_all_picks(frames: int) -> None:
    features, attention = made(1, 6, 6)
    still, attention = features.expand(frames, -1, -1, -1), attention.expand(frames, -1, -1)
    reduction = run(still, attention, keep_ratio=0.1, num_segments=1)
    # of 4 tokens a frame 3 are picked; all others are linked back to the first frame and clustered there
    assert len(reduction) == 3 * frames + frames
    later = reduction.index[reduction.index >= 36]
    assert torch.equal(later.reshape(frames - 1, 3) % 36, (later[:3] % 36).expand(frames - 1, -1))
    assert torch.isin(later[:3] % 36, reduction.index).all()


@pytest.mark.parametrize(("frames", "means"), [(2, True), (3, False)])
def test_deep_trees_come_out_too_large_as_released(frames: int, means: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    place = 5 * torch.randn(1, 4, 4, 16, generator=generator)
    features = place + 0.1 * torch.randn(frames, 4, 4, 16, generator=generator)
    attention = torch.rand(frames, 4, 4, generator=generator)
    options = {"keep_ratio": 0.6, "num_segments": 1, "segment_threshold": -1.0, "salient_ratio": 0.3}
    released = run(features, attention, **options)
    whole = run(features, attention, as_released=False, **options)
    assert torch.equal(released.index, whole.index)
    assert torch.allclose(whole.weights.to_dense().sum(1), torch.ones(len(whole)))
    assert torch.allclose(released.features, whole.features) == means


def test_single_frames_cluster_their_picks_again_as_released() -> None:
    features, attention = made(4, 6, 6)
    options = {"keep_ratio": 0.6, "num_segments": 4}
    released = run(features, attention, **options)
    assert (released.index.diff() == 0).any()
    assert (run(features, attention, as_released=False, **options).index.diff() > 0).all()


def test_segments() -> None:
    looks = torch.eye(6)
    assert FlashVID().segments(looks) == [(i, i + 1) for i in range(6)]
    assert FlashVID(segmented=False).segments(looks) == [(0, 6)]
    assert FlashVID(complementary=False).segments(torch.ones(6, 3)) == [(0, 6)]
    assert len(FlashVID(num_segments=3).segments(torch.ones(6, 3))) == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"selection": "attention"}, ValueError),
        ({"salient_ratio": 1.1}, ValueError),
        ({"link_threshold": None}, TypeError),
        ({"segment_threshold": 2}, ValueError),
        ({"num_segments": 0}, ValueError),
        ({"neighbors": 1.5}, TypeError),
        ({"expansion": 0.5}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        FlashVID(**options)
