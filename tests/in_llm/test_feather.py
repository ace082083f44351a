"""FEATHER against the same written out in numpy, and its two properties: no positions, an even grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import PromptView
from streamprune.in_llm.feather import Feather
from streamprune.tokens import VideoGrid
from tests.in_llm.views import Array, made_view, text_and

GRID = VideoGrid(2, 7, 5)


def numpy_scores(view: PromptView) -> Array:
    """The last row's softmax over the visual keys alone, before rotation."""
    layer: Any = view.before
    keys = np.repeat(layer.all_keys.double().numpy(), 2, axis=0)[:, view.visual.numpy()]
    logits = np.einsum("hd,hnd->hn", layer.all_queries[:, -1].double().numpy(), keys) * layer.scaling
    weights = np.exp(logits)
    scores: Array = (weights / weights.sum(1, keepdims=True)).mean(0)
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_the_first_cut_keeps_the_best_and_a_grid(seed: int) -> None:
    view = made_view(tokens=GRID.tokens, seed=seed, grid=GRID, depth=32)
    best = np.argsort(-numpy_scores(view))[: int(GRID.tokens * 0.3)]
    places = np.arange(GRID.tokens)
    even = places[(places % 35 // 5 % 3 == 0) & (places % 5 % 3 == 0)]
    assert len(even) == 12
    assert Feather().decide(view).kept.tolist() == text_and(view, np.union1d(best, even))
    later = made_view(tokens=GRID.tokens, seed=seed, grid=GRID, depth=32, cut=1)
    assert Feather().decide(later).kept.tolist() == text_and(later, np.argsort(-numpy_scores(later))[:6])


def test_scores_do_not_know_positions() -> None:
    view = made_view(tokens=20)
    plain, rotated = Feather().scores(view), Feather(rotated=True).scores(view)
    view.before.angles += torch.randn(len(view.before.angles), 1)  # type: ignore[attr-defined]
    assert torch.equal(Feather().scores(view), plain)
    assert not torch.allclose(Feather(rotated=True).scores(view), rotated)


@pytest.mark.parametrize(("cut", "visual", "count"), [(0, 729, 218), (1, 299, 26)])
def test_released_counts(cut: int, visual: int, count: int) -> None:
    view = made_view(tokens=visual, cut=cut, depth=32)
    assert Feather().count(view) == count


@pytest.mark.parametrize(("cuts", "counts"), [((2, 4), [50, 12]), ((2,), [12])])
def test_a_budget_is_what_the_last_cut_leaves(cuts: tuple[int, ...], counts: list[int]) -> None:
    method = Feather(keep_tokens=12, layers=cuts)
    left, got = 100, []
    for cut in range(len(cuts)):
        left = method.count(made_view(tokens=left, cut=cut, visual_at_first=100))
        got.append(left)
    assert got[-1] == counts[-1]
    assert got == pytest.approx(counts, abs=2)


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ValueError, match="none or several: give stride=None"):
        Feather().decide(made_view(tokens=20))
    with pytest.raises(ValueError, match="give one"):
        Feather(share=0.3, keep_ratio=0.1)
    for options in ({"share": 0.0}, {"stride": 0}, {"rotated": 1}, {"layers": (0,)}):
        with pytest.raises(ValueError, match="must be"):
            Feather(**options)
