"""FastV against the same written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from streamprune.in_llm.fastv import FastV
from tests.in_llm.views import made_view, numpy_attention, text_and


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [{}, {"keep_ratio": 0.2}, {"keep_tokens": 7}])
def test_equals_numpy(seed: int, budget: dict[str, float]) -> None:
    view = made_view(tokens=21 + seed, seed=seed)
    scores = numpy_attention(view.before)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    count = budget.get("keep_tokens", round(len(scores) * budget.get("keep_ratio", 0.5)))
    expected = text_and(view, np.argsort(-scores)[: int(count)])
    assert FastV(**budget).decide(view).kept.tolist() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "ratio", "left"), [(576, 0.5, 288), (576, 0.25, 144), (5, 0.5, 2), (45, 0.5, 22), (3, 0.1, 1)]
)
def test_half_a_token_goes_to_the_even_number(tokens: int, ratio: float, left: int) -> None:
    view = made_view(tokens=tokens)
    assert len(FastV(keep_ratio=ratio).decide(view).kept) == view.rows - tokens + left


@pytest.mark.parametrize(
    "options", [{"layer": 0}, {"layer": 1.5}, {"keep_ratio": 0}, {"keep_ratio": 0.5, "keep_tokens": 3}]
)
def test_options_that_cannot_be_meant(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|not both"):
        FastV(**options)  # type: ignore[arg-type]
