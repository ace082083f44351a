"""SlimInfer's units against the same written out in numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.sliminfer import SlimInfer
from tests.in_llm.views import MadeProjections, made_view, text_and


def numpy_scores(layer: Any, rows: list[int], asking: list[int]) -> float:
    """The score of the unit made of ``rows``."""
    everything = torch.arange(layer.all_keys.shape[1])
    queries, keys = layer.queries(everything).numpy(), layer.keys().numpy()
    keys = np.repeat(keys, len(queries) // len(keys), axis=0)
    mean_key, mean_query = keys[:, rows].mean(1), queries[:, asking].mean(1)
    return float((mean_key * mean_query).sum(-1).mean())


@pytest.mark.parametrize("seed", range(4))
def test_the_best_units_go_on_and_part_of_the_next(seed: int) -> None:
    view = made_view(tokens=22, after=6, seed=seed, cut=2)
    units = [list(range(first, min(first + 5, 22))) for first in range(0, 22, 5)]
    scores = [numpy_scores(view.before, [5 + token for token in unit], [29, 30, 31, 32]) for unit in units]
    expected: list[int] = []
    for number in np.argsort(-np.array(scores)):
        expected += units[number][: 12 - len(expected)]
    method = SlimInfer(unit_size=5, window=4, keep_tokens=12)
    decision = method.decide(view)
    assert decision.kept.tolist() == text_and(view, np.array(expected))
    assert decision.carried.tolist() == [token // 5 for token in sorted(expected)]


def test_units_stay_what_they_were() -> None:
    method = SlimInfer(unit_size=4, keep_tokens=2)
    left = torch.tensor([0, 0, 2, 2, 5, 5])
    view = made_view(tokens=6, visual_at_first=24, cut=2, carried=left)
    scores = {
        unit: numpy_scores(view.before, view.visual[left == unit].tolist(), [11, 12, 13, 14])
        for unit in (0, 2, 5)
    }
    best = max(scores, key=lambda unit: scores[unit])
    decision = method.decide(view)
    assert decision.carried.tolist() == [best, best]
    assert decision.kept.tolist() == view.kept_with_text((left == best).nonzero()[:, 0]).tolist()


def test_only_rows_behind_the_video_ask() -> None:
    few = made_view(tokens=20, after=2, cut=2)
    wide, narrow = SlimInfer(window=99, unit_size=3), SlimInfer(window=2, unit_size=3)
    assert wide.decide(few).kept.tolist() == narrow.decide(few).kept.tolist()


def test_alike_units_go_on_from_the_first() -> None:
    layer = MadeProjections(31, seed=5)
    layer.all_keys[:] = 0
    view = replace(made_view(tokens=24, after=2, cut=2), before=layer)
    assert SlimInfer(keep_tokens=6).decide(view).kept.tolist() == text_and(view, np.arange(6))


@pytest.mark.parametrize(
    ("options", "visual", "counts"),
    [
        ({}, 512, [322, 203, 128]),
        ({"keep_tokens": 8}, 64, [32, 16, 8]),
        ({"keep_ratio": 0.001}, 9, [1, 1, 1]),
    ],
)
def test_counts(options: dict[str, Any], visual: int, counts: list[int]) -> None:
    assert [SlimInfer(**options).count(cut, 3, visual) for cut in range(3)] == counts


def test_layers_and_options() -> None:
    assert SlimInfer().cuts(32) == (8, 16, 24)
    assert SlimInfer(layers=(2,)).cuts(32) == (2,)
    with pytest.raises(ValueError, match="unit_size must be at least 1, got 0"):
        SlimInfer(unit_size=0)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        SlimInfer(window=0)
