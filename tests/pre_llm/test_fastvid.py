"""FastVID against a float64 reference, its budgets by hand, and what it does where released code raises."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.fastvid import FastVID, Form
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid
from tests.pre_llm.fastvid_reference import fastvid_reference

FORMS: tuple[Form, ...] = ("llava_onevision", "llava_video", "qwen2_5_vl")
every_form = pytest.mark.parametrize("form", FORMS)


def made(
    frames: int, rows: int, cols: int, *, channels: int = 12, scenes: int = 3, seed: int = 0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Features and signals of a clip of ``scenes`` scenes; frame features vary little inside a scene."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(frames) * scenes // frames
    base = torch.randn(scenes, rows, cols, channels, generator=generator)[scene]
    features = base + 0.5 * torch.randn(frames, rows, cols, channels, generator=generator)
    looks = torch.randn(scenes, 20, generator=generator)[scene]
    looks = looks + 0.15 * torch.randn(frames, 20, generator=generator)
    return features, {
        "saliency": torch.rand(frames, rows, cols, generator=generator),
        "frame_features": looks,
    }


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "fastvid", signals=signals, **options)


@every_form
@pytest.mark.parametrize(
    ("shape", "keep_ratio", "options"),
    [
        ((12, 6, 6), 0.25, {}),
        ((11, 5, 7), 0.2, {"num_segments": 3}),
        ((9, 6, 6), 0.35, {"num_segments": 2, "anchor_interval": 2, "merge_weight_floor": 0.1}),
        ((10, 7, 5), 0.3, {"num_segments": 1, "similarity_threshold": -1.0, "neighbors": 2}),
        ((8, 6, 6), 0.3, {"context_ratio": 0.7, "anchor_interval": 1}),
        ((13, 6, 6), 0.12, {"num_segments": 4, "anchor_interval": 3, "context_ratio": 0.3}),
        ((5, 6, 6), 0.25, {"num_segments": 5, "similarity_threshold": 1.0}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    form: Form, shape: tuple[int, int, int], keep_ratio: float, options: dict[str, Any], seed: int
) -> None:
    features, signals = made(*shape, seed=seed)
    reduction = run(features, signals, keep_ratio=keep_ratio, form=form, **options)
    expected = fastvid_reference(
        features.double().numpy().reshape(shape[0], -1, 12),
        signals["saliency"].double().numpy().reshape(shape[0], -1),
        signals["frame_features"].double().numpy(),
        form=form,
        keep=int(shape[1] * shape[2] * keep_ratio),
        c=options.get("num_segments", 8),
        tau=options.get("similarity_threshold", 0.84 if form == "qwen2_5_vl" else 0.9),
        d=options.get("context_ratio", 0.4),
        p=options.get("anchor_interval", 4),
        beta=options.get("merge_weight_floor", 0.6),
        neighbors=options.get("neighbors", 4),
    )
    assert reduction.index.tolist() == sorted(expected)
    np.testing.assert_allclose(
        reduction.features, np.stack([expected[token] for token in sorted(expected)]), atol=1e-5
    )


def test_every_released_default() -> None:
    assert asdict(FastVID()) == {
        "budget": asdict(Budget()),
        "form": "llava_onevision",
        "num_segments": 8,
        "similarity_threshold": None,
        "context_ratio": 0.4,
        "anchor_interval": 4,
        "merge_weight_floor": 0.6,
        "ignore_threshold": None,
        "neighbors": 4,
        "anchor_in_mean": None,
        "anchors_from": "last",
    }


@pytest.mark.parametrize(
    ("keep_ratio", "segment_sizes", "kept"),
    [(0.10, [4] * 8, 608), (0.10, [5, 6, 7, 14], 604), (0.25, [4] * 8, 1568)],
)
def test_released_counts_of_32_frames_of_196(keep_ratio: float, segment_sizes: list[int], kept: int) -> None:
    segment = torch.repeat_interleave(torch.arange(len(segment_sizes)), torch.tensor(segment_sizes))
    signals = {"saliency": torch.rand(32, 14, 14), "frame_features": torch.eye(len(segment_sizes))[segment]}
    features = torch.randn(32, 14, 14, 4)
    reduction = run(features, signals, keep_ratio=keep_ratio, num_segments=len(segment_sizes))
    assert len(reduction) == kept


@pytest.mark.parametrize(
    ("frames", "last", "first"),
    [(1, [0], [0]), (4, [3], [0]), (5, [0, 4], [0, 4]), (10, [1, 5, 9], [0, 4, 8])],
)
def test_which_frames_hold_anchors(frames: int, last: list[int], first: list[int]) -> None:
    for counted_from, expected in (("last", last), ("first", first)):
        method = FastVID(anchors_from=counted_from)  # type: ignore[arg-type]
        context = method.segment_shares(20, 100, [True] * frames).context
        assert [i for i, n in enumerate(context) if n] == expected


@pytest.mark.parametrize(
    ("form", "per_frame", "room", "holds", "salient", "context"),
    [
        # floor(7 * 5 / 2) anchors on each of two frames, the odd one dropped
        ("llava_onevision", 19, 196, [True] * 5, [12] * 5, [17, 0, 0, 0, 17]),
        # 95 tokens: 38 context on two frames, 57 salient with remainders in front
        ("llava_video", 19, 196, [True] * 5, [12, 12, 11, 11, 11], [19, 0, 0, 0, 19]),
        # 114 tokens: of 45 context the odd one goes to the last frame
        ("llava_video", 19, 196, [True] * 6, [12, 12, 12, 11, 11, 11], [0, 22, 0, 0, 0, 23]),
        ("qwen2_5_vl", 19, 196, [False, True, True], [0, 18, 17], [0, 0, 22]),
        # full frames keep less than asked
        ("qwen2_5_vl", 24, 49, [False, False, True], [0, 0, 25], [0, 0, 24]),
        ("qwen2_5_vl", 1, 49, [True], [0], [1]),
        # 96 anchors where 64 have room: 32 become salient tokens of the other frames
        ("llava_onevision", 60, 100, [True] * 4, [47, 47, 46, 36], [0, 0, 0, 64]),
        ("llava_onevision", 2, 100, [True] * 4, [2] * 4, [0] * 4),
    ],
)
def test_budgets_by_hand(
    form: Form, per_frame: int, room: int, holds: list[bool], salient: list[int], context: list[int]
) -> None:
    shares = FastVID(form=form).segment_shares(per_frame, room, holds)
    assert (shares.salient, shares.context) == (salient, context)


def test_all_transitions_equal_give_exactly_the_asked_segments_and_all_weak_ones_one_each() -> None:
    assert len(FastVID().segments(torch.ones(20, 3))) == 8
    assert FastVID().segments(torch.eye(20)) == [(i, i + 1) for i in range(20)]
    assert FastVID().segments(torch.ones(3, 3)) == [(0, 1), (1, 2), (2, 3)]
    assert FastVID().segments(torch.ones(1, 3)) == [(0, 1)]


@every_form
def test_a_floor_of_one_returns_anchors_untouched(form: Form) -> None:
    features, signals = made(12, 6, 6)
    reduction = run(features, signals, keep_ratio=0.25, form=form, merge_weight_floor=1.0)
    torch.testing.assert_close(reduction.features, features.reshape(-1, 12)[reduction.index])


@every_form
def test_without_context_every_token_is_salient(form: Form) -> None:
    features, signals = made(6, 6, 6)
    reduction = run(features, signals, keep_ratio=0.3, form=form, context_ratio=0.0)
    best = signals["saliency"].reshape(6, 36).topk(10).indices
    salient = (best + 36 * torch.arange(6)[:, None]).flatten().sort().values
    if form == "qwen2_5_vl":  # at least one anchor a segment
        assert torch.isin(reduction.index, salient).sum() >= 54
    else:
        assert torch.equal(reduction.index, salient)
        assert torch.equal(reduction.features, features.reshape(-1, 12)[salient])


@every_form
@pytest.mark.parametrize("keep_ratio", [0.6, 0.9, 0.99])
def test_generous_budgets_are_met_where_anchors_overflow(form: Form, keep_ratio: float) -> None:
    features, signals = made(16, 5, 5)
    reduction = run(features, signals, keep_ratio=keep_ratio, form=form, num_segments=2)
    asked = 16 * int(25 * keep_ratio)
    if form == "llava_video":
        assert len(reduction) == asked
    elif form == "llava_onevision":
        assert asked - 16 <= len(reduction) <= asked
    else:
        assert len(reduction) <= asked


def test_the_paper_leaves_the_anchor_out_of_its_mean() -> None:
    features, signals = made(8, 6, 6)
    options = {"keep_ratio": 0.25, "merge_weight_floor": 0.0}
    released, paper = (run(features, signals, anchor_in_mean=flag, **options) for flag in (None, False))
    assert torch.equal(released.index, paper.index)
    assert not torch.allclose(released.features, paper.features)
    # released: w + (1 - w) / n for the anchor, with w = 1 / (n + 1); paper: the plain mean of n + 1 tokens
    for weights in paper.weights.to_dense():
        inside = weights[weights > 0]
        torch.testing.assert_close(inside, torch.full_like(inside, 1 / len(inside)))


def test_near_identical_frames_hold_no_tokens() -> None:
    features, signals = made(9, 6, 6)
    signals["frame_features"] = torch.eye(3)[torch.arange(9) // 3]
    reduction = run(features, signals, keep_ratio=0.1, form="qwen2_5_vl", num_segments=1)
    assert set((reduction.index // 36).tolist()) == {2, 5, 8}
    everywhere = run(
        features, signals, keep_ratio=0.1, form="qwen2_5_vl", num_segments=1, ignore_threshold=1.0
    )
    assert len(set((everywhere.index // 36).tolist())) >= 3


@pytest.mark.parametrize(
    ("form", "options", "frames", "counts"),
    [
        ("llava_onevision", {}, 8, True),
        ("llava_onevision", {}, 20, False),
        ("llava_onevision", {"context_ratio": 0.0}, 20, True),
        ("llava_onevision", {"anchor_interval": 1}, 20, True),
        ("llava_video", {}, 20, True),
        ("qwen2_5_vl", {}, 8, True),
        ("qwen2_5_vl", {}, 9, False),
    ],
)
def test_the_count_is_announced_where_content_cannot_change_it(
    form: Form, options: dict[str, Any], frames: int, counts: bool
) -> None:
    method = FastVID(form=form, budget=Budget(keep_ratio=0.1), **options)
    assert method.count(VideoGrid(frames, 14, 14)) == (frames * 19 if counts else None)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "llava_one_vision"}, ValueError),
        ({"form": 3}, ValueError),
        ({"anchors_from": "middle"}, ValueError),
        ({"num_segments": 0}, ValueError),
        ({"num_segments": 2.0}, TypeError),
        ({"anchor_interval": True}, TypeError),
        ({"neighbors": -1}, ValueError),
        ({"context_ratio": 1.1}, ValueError),
        ({"context_ratio": None}, TypeError),
        ({"similarity_threshold": float("nan")}, ValueError),
        ({"similarity_threshold": "high"}, TypeError),
        ({"merge_weight_floor": -0.1}, ValueError),
        ({"ignore_threshold": 0.9}, ValueError),
        ({"form": "qwen2_5_vl", "ignore_threshold": 2}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=str(list(options)[-1])):
        FastVID(**options)
