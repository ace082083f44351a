"""DART against the same written out in numpy, and its counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamprune.in_llm.dart import DART
from tests.in_llm.views import made_view, text_and


@pytest.mark.parametrize("seed", range(4))
def test_equals_numpy(seed: int) -> None:
    view = made_view(tokens=40, after=6, seed=seed)
    at: Any = view.at
    visual = view.visual.numpy()
    size = np.abs(view.before.keys().double().numpy()).sum((0, 2))
    own = visual[np.argsort(-size[visual])[:3]]
    text = np.arange(45, 51)[np.argsort(-size[45:])[:2]]
    states = at.states.double().numpy()
    states /= np.linalg.norm(states, axis=1, keepdims=True)
    pool, kept = [row for row in visual if row not in own], [*own]
    for pivot in [*own, *text]:
        for row in sorted(pool, key=lambda row: states[row] @ states[pivot])[:4]:
            pool.remove(row)
            kept.append(row)
    method = DART(keep_tokens=20, visual_pivots=3, text_pivots=2)
    assert len(kept) == 23
    assert method.decide(view).kept.tolist() == text_and(view, np.array(kept) - 5)


@pytest.mark.parametrize(
    ("pivots", "asked", "left"),
    [((4, 4), 192, 196), ((4, 4), 128, 132), ((4, 4), 64, 68), ((10, 5), 192, 190), ((10, 5), 64, 70)],
)
def test_released_counts(pivots: tuple[int, int], asked: int, left: int) -> None:
    view = made_view(tokens=576, after=20)
    method = DART(keep_tokens=asked, visual_pivots=pivots[0], text_pivots=pivots[1])
    assert len(method.decide(view).kept) == view.rows - 576 + left


def test_tokens_all_alike_are_taken_from_the_front() -> None:
    view = made_view(tokens=24)
    at: Any = view.at
    at.states[:] = at.states[0]
    method = DART(keep_tokens=12, text_pivots=0, visual_pivots=2)
    own = method.pivots(view)[0].tolist()
    others = [row for row in view.visual.tolist() if row not in own][:12]
    assert method.decide(view).kept.tolist() == text_and(view, np.array([*own, *others]) - 5)


def test_fewer_tokens_than_pivots() -> None:
    view = made_view(tokens=2, after=1)
    kept = DART(keep_ratio=0.5).decide(view).kept
    assert kept.tolist() == list(range(view.rows)), "every token is a pivot"


@pytest.mark.parametrize("options", [{"layer": 0}, {"visual_pivots": 0}, {"text_pivots": -1}])
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        DART(**options)
