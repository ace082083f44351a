"""FlashVID's inner cut against the same written out in numpy, and its counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamprune.in_llm.flashvid import FlashVIDInner
from tests.in_llm.views import made_view, numpy_attention, text_and


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [None, 0.1, 0.55])
def test_equals_numpy(seed: int, ratio: float | None) -> None:
    view = made_view(tokens=27, seed=seed)
    scores = numpy_attention(view.before)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    count = math.ceil(27 * (ratio or 0.3))
    expected = text_and(view, np.argsort(-scores)[:count])
    assert FlashVIDInner(keep_ratio=ratio).decide(view).kept.tolist() == expected


@pytest.mark.parametrize(("visual", "count"), [(1960, 588), (10, 3), (11, 4), (1, 1)])
def test_shares_are_rounded_up(visual: int, count: int) -> None:
    assert FlashVIDInner().count(visual) == count


def test_a_quarter_more_below_is_the_same_on_the_mean() -> None:
    (cut,) = FlashVIDInner().cuts(28)
    assert (cut * 1250 + (28 - cut) * FlashVIDInner().count(1250)) / 28 == 1000


@pytest.mark.parametrize(("depth", "cut"), [(28, 20), (4, 2), (2, 1)])
def test_the_layer_is_scaled(depth: int, cut: int) -> None:
    assert FlashVIDInner().checked_cuts(depth) == (cut,)


@pytest.mark.parametrize("options", [{"layer": 0}, {"keep_ratio": 1.5}, {"keep_tokens": 0}])
def test_options_that_cannot_be_meant(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        FlashVIDInner(**options)  # type: ignore[arg-type]
