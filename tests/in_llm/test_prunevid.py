"""PruneVid's selection against the same written out in numpy: groups, rounding, both forms of attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import PromptView
from streamprune.in_llm.prunevid import PruneVidInner
from streamprune.tokens import VideoGrid
from tests.in_llm.views import Array, made_view, numpy_attention, text_and

GRID = VideoGrid(3, 3, 4)


def numpy_scores(view: PromptView) -> Array:
    """Attention without rotation and mask, its largest value over heads and rows of the question."""
    layer: Any = view.before
    keys = np.repeat(layer.all_keys.double().numpy(), 2, axis=0)
    logits = layer.all_queries.double().numpy() @ keys.transpose(0, 2, 1) * layer.scaling
    weights = np.exp(logits)
    attention = weights / weights.sum(-1, keepdims=True)
    first = int(view.visual[-1]) + 1
    scores: Array = attention[:, first:, view.visual.numpy()].max((0, 1))
    return scores


def best(scores: Array, sizes: list[int], counts: list[int]) -> Array:
    """The ``counts[i]`` best of every group."""
    first, chosen = 0, []
    for size, count in zip(sizes, counts, strict=True):
        chosen.append(first + np.argsort(-scores[first : first + size])[:count])
        first += size
    return np.concatenate(chosen)


@pytest.mark.parametrize("seed", range(4))
def test_every_frame_keeps_its_share(seed: int) -> None:
    view = made_view(tokens=GRID.tokens, seed=seed, grid=GRID)
    scores = numpy_scores(view)
    for budget, counts in (
        ({}, [4, 4, 4]),
        ({"keep_ratio": 0.25}, [3, 3, 3]),
        ({"keep_tokens": 7}, [3, 2, 2]),
    ):
        expected = text_and(view, best(scores, [12] * 3, counts))
        assert PruneVidInner(**budget).decide(view).kept.tolist() == expected


def test_groups_are_what_is_there_of_a_frame() -> None:
    places = torch.tensor([0, 5, 11, 12, 13, 14, 15, 16, 17, 30])
    view = made_view(tokens=10, grid=GRID, places=places)
    expected = best(numpy_scores(view), [3, 6, 1], [1, 3, 0])
    assert PruneVidInner(keep_ratio=0.5).decide(view).kept.tolist() == text_and(view, expected)


def test_groups_may_be_named() -> None:
    view = made_view(tokens=25, seed=1)
    expected = best(numpy_scores(view), [10, 5, 5, 5], [4, 2, 2, 2])
    method = PruneVidInner(keep_ratio=0.4, group_sizes=(10, 5, 5, 5))
    assert method.decide(view).kept.tolist() == text_and(view, expected)
    tiny = PruneVidInner(keep_ratio=0.4, group_sizes=(2, 0, 23))
    assert tiny.decide(view).kept.tolist() == text_and(view, best(numpy_scores(view), [2, 23], [0, 9]))


def test_without_groups_all_tokens_are_one() -> None:
    view = made_view(tokens=20, seed=2)
    assert PruneVidInner().decide(view).kept.tolist() == text_and(view, np.argsort(-numpy_scores(view))[:8])


def test_where_no_group_keeps_any_the_best_token_stays() -> None:
    view = made_view(tokens=GRID.tokens, seed=3, grid=GRID)
    expected = text_and(view, np.argsort(-numpy_scores(view))[:1])
    assert PruneVidInner(keep_ratio=0.05).decide(view).kept.tolist() == expected


@pytest.mark.parametrize("seed", range(3))
def test_the_papers_form(seed: int) -> None:
    view = made_view(tokens=GRID.tokens, seed=seed, grid=GRID)
    attention = numpy_attention(view.before)  # type: ignore[arg-type]
    scores = attention[:, int(view.visual[-1]) + 1 :, view.visual.numpy()].max((0, 1))
    # 14.4 is rounded up
    expected = text_and(view, np.argsort(-scores)[:15])
    assert PruneVidInner(as_released=False).decide(view).kept.tolist() == expected


@pytest.mark.parametrize(("depth", "cut"), [(32, 11), (28, 9), (4, 1)])
def test_the_layer_is_scaled(depth: int, cut: int) -> None:
    assert PruneVidInner().cuts(depth) == (cut,)


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="add up to the 20 visual tokens"):
        PruneVidInner(group_sizes=(10, 9)).decide(made_view(tokens=20))
    with pytest.raises(ValueError, match="knows no groups"):
        PruneVidInner(group_sizes=(20,), as_released=False)
    with pytest.raises(TypeError, match="list of numbers"):
        PruneVidInner(group_sizes=5)  # type: ignore[arg-type]
    for options in ({"layer": 0}, {"group_sizes": (-1,)}, {"as_released": 1}):
        with pytest.raises(ValueError, match="must be"):
            PruneVidInner(**options)
