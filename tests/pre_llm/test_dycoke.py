"""DyCoke by hand: which frames are cut, against which, how far a budget reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.dycoke import DyCoke, Form
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid


def draw(frames: int, rows: int = 2, cols: int = 5, channels: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(frames, rows, cols, channels, generator=generator)


@pytest.mark.parametrize(
    ("form", "frames", "whole", "cut"),
    [
        ("released", 1, [0], []),
        ("released", 2, [0], [(1, 0)]),
        ("released", 3, [0, 2], [(1, 0)]),
        ("released", 4, [0, 2], [(1, 0), (3, 2)]),
        ("released", 5, [0], [(1, 0), (2, 0), (3, 2)]),
        ("released", 8, [0, 4, 6], [(1, 0), (2, 0), (3, 2), (5, 4), (7, 6)]),
        ("released", 9, [0, 4], [(1, 0), (2, 0), (3, 2), (5, 4), (6, 4), (7, 6)]),
        ("paper", 1, [0], []),
        ("paper", 3, [0], [(1, 0), (2, 0)]),
        ("paper", 6, [0, 4], [(1, 0), (2, 0), (3, 2), (5, 4)]),
        ("paper", 9, [0, 4, 8], [(1, 0), (2, 0), (3, 2), (5, 4), (6, 4), (7, 6)]),
    ],
)
def test_who_is_cut_against_whom(
    form: Form, frames: int, whole: list[int], cut: list[tuple[int, int]]
) -> None:
    plan = DyCoke(form=form).plan(frames)
    assert (plan.whole, plan.cut) == (whole, cut)


@pytest.mark.parametrize(
    ("form", "shape", "kept"),
    [
        ("released", (8, 2, 5), 45),
        ("paper", (8, 2, 5), 38),
        ("released", (32, 14, 14), 3098),
        ("released", (16, 14, 14), 1618),
        ("released", (8, 14, 14), 878),
    ],
)
def test_counts_of_the_released_share(form: Form, shape: tuple[int, int, int], kept: int) -> None:
    method = DyCoke(form=form, prune_share=0.7)
    assert method.count(VideoGrid(*shape)) == kept
    features = torch.rand(*shape, 2)
    assert len(reduce_tokens(features, "dycoke", form=form, prune_share=0.7)) == kept


def test_cut_frames_keep_their_least_similar_tokens_in_that_order() -> None:
    features = draw(8)
    reduction = reduce_tokens(features, "dycoke", prune_share=0.7)
    unit = features.flatten(1, 2).double().numpy()
    unit /= np.linalg.norm(unit, axis=2, keepdims=True)
    expected: list[int] = []
    for frame, against in ((0, None), (1, 0), (2, 0), (3, 2), (4, None), (5, 4), (6, None), (7, 6)):
        order = np.arange(10)
        if against is not None:
            order = np.argsort((unit[frame] * unit[against]).sum(1))[:3]
        expected += (frame * 10 + order).tolist()
    assert reduction.index[reduction.order].tolist() == expected
    assert reduction.index.tolist() == sorted(expected)


def test_a_still_video_loses_as_many_as_any_other() -> None:
    features = draw(1).expand(8, -1, -1, -1)
    reduction = reduce_tokens(features, "dycoke", prune_share=0.7)
    assert torch.bincount(reduction.index // 10).tolist() == [10, 3, 3, 3, 10, 3, 10, 3]


def test_pruning_nothing_keeps_raster_order_of_all_but_a_lost_frame() -> None:
    assert reduce_tokens(draw(8), "dycoke", prune_share=0).index.tolist() == list(range(80))
    assert reduce_tokens(draw(9), "dycoke", prune_share=0).index.tolist() == list(range(80))
    assert reduce_tokens(draw(9), "dycoke", prune_share=0, form="paper").is_identity


@pytest.mark.parametrize(
    ("form", "keep_tokens", "kept"),
    [("released", 55, 55), ("released", 59, 55), ("released", 10, 30), ("paper", 10, 20), ("paper", 79, 74)],
)
def test_a_budget_becomes_a_share_of_the_cut_frames(form: Form, keep_tokens: int, kept: int) -> None:
    reduction = reduce_tokens(draw(8), "dycoke", form=form, keep_tokens=keep_tokens)
    assert (
        len(reduction)
        == kept
        == DyCoke(form=form, budget=Budget(keep_tokens=keep_tokens)).count(VideoGrid(8, 2, 5))
    )


def test_a_share_and_a_budget_exclude_each_other() -> None:
    for budget in ({"keep_ratio": 0.5}, {"keep_tokens": 9}, {"keep_ratio": 1}):
        with pytest.raises(
            ValueError, match=r"prune_share=0\.7 of dycoke .* leave out prune_share or the budget"
        ):
            reduce_tokens(draw(8), "dycoke", prune_share=0.7, **budget)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "papers"}, ValueError),
        ({"prune_share": 1.1}, ValueError),
        ({"prune_share": "most"}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        DyCoke(**options)
