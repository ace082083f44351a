"""PyramidDrop against the same written out in numpy, and its counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamprune.in_llm.pyramiddrop import PyramidDrop
from tests.in_llm.views import made_view, numpy_attention, text_and


@pytest.mark.parametrize("seed", range(4))
def test_equals_numpy(seed: int) -> None:
    view = made_view(tokens=30, seed=seed, cut=1, visual_at_first=61, depth=32)
    scores = numpy_attention(view.at)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    expected = text_and(view, np.argsort(-scores)[:15])
    assert PyramidDrop().decide(view).kept.tolist() == expected


@pytest.mark.parametrize(
    ("options", "visual", "counts"),
    [
        ({}, 576, [288, 144, 72]),
        ({}, 100, [50, 25, 12]),
        ({"shares": (0.5, 0.5, 0.1)}, 245, [122, 122, 24]),
        ({"keep_tokens": 64}, 512, [256, 128, 64]),
        ({"keep_ratio": 0.001}, 27, [2, 1, 1]),
    ],
)
def test_counts(options: dict[str, Any], visual: int, counts: list[int]) -> None:
    method = PyramidDrop(**options)
    assert [method.count(cut, 3, visual) for cut in range(3)] == counts


@pytest.mark.parametrize(
    ("options", "depth", "cuts"),
    [
        ({}, 32, (8, 16, 24)),
        ({}, 28, (7, 14, 21)),
        ({}, 2, (1,)),
        ({"shares": (0.5,)}, 28, (14,)),
        ({"layers": [3, 9]}, 28, (3, 9)),
    ],
)
def test_layers_are_scaled_to_the_depth(options: dict[str, Any], depth: int, cuts: tuple[int, ...]) -> None:
    assert PyramidDrop(**options).checked_cuts(depth) == cuts


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shares": (0.5, 0.6)}, "must not rise"),
        ({"shares": "half"}, "must be a list"),
        ({"shares": (0.5, 0.0)}, "shares must be in"),
        ({"shares": (0.5,), "keep_ratio": 0.5}, "give one"),
        ({"shares": (0.5,), "layers": (1, 2)}, "one number for each"),
        ({"layers": (2, 1)}, "ascending"),
        ({"layers": ()}, "at least one"),
        ({"layers": "12"}, "must be a list"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PyramidDrop(**options)


def test_more_shares_than_layers() -> None:
    with pytest.raises(ValueError, match="fewer than the 2 layers"):
        PyramidDrop(shares=(0.5, 0.4, 0.3)).cuts(2)
