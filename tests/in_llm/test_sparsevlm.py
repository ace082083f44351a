"""SparseVLM against the same written out in numpy, its raters and its counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.sparsevlm import SparseVLM
from streamprune.reduction import weighted_sum
from tests.in_llm.views import made_view, numpy_attention, text_and


@pytest.mark.parametrize("seed", range(4))
def test_rating_equals_numpy(seed: int) -> None:
    view = made_view(tokens=40, after=6, seed=seed, depth=32)
    visual = view.visual.numpy()
    embeds = view.embeds.double().numpy()
    products = np.exp(embeds[visual] @ embeds[45:].T)
    weight = (products / products.sum(1, keepdims=True)).mean(0)
    raters = np.arange(45, 51)[weight > 1 / 6]
    assert 0 < len(raters) < 6
    attention: Any = numpy_attention(view.before)  # type: ignore[arg-type]
    scores = attention[:, raters][..., visual].mean((0, 1))
    method = SparseVLM(counts=(12, 5, 3), recycle=False)
    decision = method.decide(view)
    assert decision.kept.tolist() == text_and(view, np.argsort(-scores)[:12])
    assert (view.rows - decision.carried).tolist() == raters.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_what_is_dropped_goes_on_in_means(seed: int) -> None:
    view = made_view(tokens=90, seed=seed, depth=32)
    method = SparseVLM(counts=(20, 9, 5))
    decision = method.decide(view)
    plain = SparseVLM(counts=(20, 9, 5), recycle=False).decide(view).kept
    # 70 are dropped, 22 pooled, 3 of them are centres
    assert len(decision.kept) == len(plain) + 3
    assert decision.entries is not None
    row, token, weight = decision.entries
    values = weighted_sum(decision.entries, view.states, len(decision.kept))
    same = torch.isin(decision.kept, plain)
    assert torch.equal(values[same], view.states[plain])
    pooled = token[torch.isin(row, (~same).nonzero()[:, 0])]
    assert len(pooled) == 22
    assert not torch.isin(pooled, plain).any()
    for place in (~same).nonzero()[:, 0]:
        members = token[row == place]
        assert decision.kept[place] in members
        torch.testing.assert_close(values[place], view.states[members].mean(0))
        assert weight[row == place].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "visual", "cut", "count"),
    [
        ({}, 576, 0, 300),
        ({}, 309, 1, 200),
        ({"counts": (300, 200, 110)}, 120, 0, 119),
        ({"keep_tokens": 64}, 576, 2, 48),
        ({"keep_tokens": 64, "recycle": False}, 576, 2, 64),
        ({"keep_tokens": 1}, 576, 2, 0),
    ],
)
def test_counts(options: dict[str, Any], visual: int, cut: int, count: int) -> None:
    assert SparseVLM(**options).count(cut, 3, visual, 576) == count


def test_without_a_word_above_the_mean_all_rate() -> None:
    view = made_view(tokens=10, after=1)
    assert SparseVLM().raters(view).tolist() == [1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"counts": (3, 2), "keep_tokens": 2}, "give one"),
        ({"counts": "3"}, "must be a list"),
        ({"counts": (0,)}, "must be at least 1"),
        ({"recycle": 1}, "must be True or False"),
        ({"layers": (0,)}, "must be at least 1"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SparseVLM(**options)


def test_counts_are_one_for_each_layer() -> None:
    with pytest.raises(ValueError, match=r"one number for each of the layers \(3, 7, 16\)"):
        SparseVLM(counts=(3, 2)).cuts(32)
