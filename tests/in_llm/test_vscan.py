"""VScan's second stage against the same written out in numpy, with and without rotation."""

from __future__ import annotations

import numpy as np
import pytest

from streamprune.in_llm.vscan import VScanInner
from tests.in_llm.views import made_view, numpy_attention, text_and


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rotated", [True, False])
def test_equals_numpy(seed: int, rotated: bool) -> None:
    view = made_view(tokens=24, seed=seed)
    attention = numpy_attention(view.at, rotated=rotated)  # type: ignore[arg-type]
    scores = attention[:, -1, view.visual.numpy()].mean(0)
    method = VScanInner(keep_tokens=7, rotated=rotated)
    assert method.decide(view).kept.tolist() == text_and(view, np.argsort(-scores)[:7])


def test_rotation_matters() -> None:
    view = made_view(tokens=24)
    kept = [VScanInner(rotated=flag).decide(view).kept.tolist() for flag in (True, False)]
    assert kept[0] != kept[1]


@pytest.mark.parametrize(("tokens", "left"), [(96, 32), (64, 21), (2, 1)])
def test_a_third_goes_on(tokens: int, left: int) -> None:
    view = made_view(tokens=tokens)
    assert len(VScanInner().decide(view).kept) == view.rows - tokens + left


@pytest.mark.parametrize(("depth", "cut"), [(32, 16), (28, 14), (2, 1)])
def test_the_middle_of_the_model(depth: int, cut: int) -> None:
    assert VScanInner().checked_cuts(depth) == (cut,)


def test_96_and_then_32_tokens_are_64_a_layer() -> None:
    (cut,) = VScanInner().cuts(32)
    later = len(VScanInner().decide(made_view(tokens=96)).kept) - 9
    assert (cut * 96 + (32 - cut) * later) / 32 == 64


@pytest.mark.parametrize("options", [{"layer": 0}, {"rotated": 1}, {"keep_ratio": 1.5}])
def test_options_that_cannot_be_meant(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        VScanInner(**options)  # type: ignore[arg-type]
