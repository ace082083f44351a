from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from streamprune.encoder.base import LayerInput, LayerReduction, LayerSignals, TowerShape
from streamprune.encoder.saint import Saint, least_redundant, redundancy
from tests.encoder import references
from tests.encoder.towers import SHAPE, Array, NumpyTower, pixels, run, unit


def decide(keys: torch.Tensor, **options: object) -> LayerReduction:
    """One layer over (frames, tokens, dim) keys."""
    frames, tokens = keys.shape[:2]
    place = torch.arange(tokens).expand(frames, -1)
    at = LayerInput(TowerShape(1, tokens, 1), 0, keys.clone(), None, place, LayerSignals(keys=keys[:, None]))
    return Saint(**options).reduce_layer(at)  # type: ignore[arg-type]


def test_nothing_goes_where_the_halves_are_orthogonal() -> None:
    keys = torch.zeros(1, 12, 12)
    keys[0, ::2] = torch.eye(12)[:6]
    keys[0, 1::2] = torch.eye(12)[6:]
    assert decide(keys, min_similar=1).step is None


def test_the_whole_even_half_goes_where_all_are_equal() -> None:
    step = decide(torch.ones(2, 12, 3)).step
    assert step is not None
    assert step.index.tolist() == [list(range(1, 12, 2)), list(range(13, 24, 2))]
    assert decide(torch.ones(2, 12, 3), min_similar=7).step is None, "only six look-alikes there"


def test_scores_count_look_alikes_and_how_close_they_are() -> None:
    similarity = torch.tensor([[[0.9, 0.8, 0.1], [0.9, 0.9, 0.1], [0.3, 0.2, 0.1]]])
    scores = redundancy(similarity, 0.75, 10.0)[0].tolist()
    assert scores == pytest.approx([2 * math.exp(10 * 0.1), 2 * math.exp(10 * 0.15), 0.2], rel=1e-4)


def test_a_batch_agrees_on_the_mean_rounded_down() -> None:
    keys = torch.ones(3, 12, 12)
    keys[1:, ::2] = torch.eye(12)[:6]
    keys[1:, 1::2] = torch.eye(12)[6:]
    step = decide(keys, batch_mean=True).step
    assert step is not None
    assert step.index.shape == (3, 12 - 2), "6, 0 and 0 of them: two each"


def test_a_single_token_stays() -> None:
    assert decide(torch.ones(1, 1, 4), min_similar=1).step is None


def test_no_cosine_reaches_a_threshold_above_one() -> None:
    assert Saint(similarity_threshold=1.01).changes_nothing(SHAPE)
    assert Saint(similarity_threshold=1.0).counts(SHAPE) is None


@pytest.mark.parametrize(("threshold", "least"), [(0.5, 2), (0.75, 1), (0.3, 5)])
def test_a_whole_run_equals_loops_in_double_precision(threshold: float, least: int) -> None:
    given = pixels(3, drift=1.0)
    out = run(Saint(similarity_threshold=threshold, min_similar=least), given)
    assert out.share < 0.9
    for frame, states in zip(given, out.states[0], strict=True):
        expected = references.saint(NumpyTower(), frame, threshold, least, 10.0)
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


def rounds(similarity: Array, left: int) -> list[int]:
    """The graph form with plain lists."""
    there, divisor = list(range(len(similarity))), 16
    while len(there) > left:
        divisor = max(1, min(len(there) - left, len(there) // divisor))
        sums = {t: similarity[t, there].sum() for t in there}
        gone = sorted(there, key=lambda t: (-sums[t], t))[:divisor]
        there = [t for t in there if t not in gone]
    return there


@pytest.mark.parametrize("tokens", [1, 5, 40, 100])
def test_rounds_drop_what_is_like_everything(tokens: int) -> None:
    rows = unit(np.random.default_rng(tokens).normal(size=(2, tokens, 4)))
    similarity = rows @ rows.transpose(0, 2, 1)
    for left in {1, 1 + tokens // 3, tokens}:
        found = least_redundant(torch.from_numpy(similarity), left)
        assert found.tolist() == [rounds(frame, left) for frame in similarity]


def test_the_graph_form_drops_the_crowd_first() -> None:
    keys = torch.eye(8)[None].clone()
    keys[0, :5, 0] = 10.0
    decision = decide(keys, form="graph", layer_keep_share=0.5)
    assert decision.step is not None
    assert set(range(5, 8)) <= set(decision.step.index[0].tolist())
    counts = Saint(form="graph").counts(TowerShape(24, 24, 24))
    assert counts is not None
    assert counts[11:13] == (576, 375)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity_threshold": 3}, "similarity_threshold must be in"),
        ({"min_similar": 0}, "min_similar must be at least 1"),
        ({"sharpness": -1}, "sharpness must be in"),
        ({"form": "full"}, "unknown form of saint 'full'"),
        ({"layer_keep_share": 0}, "layer_keep_share must be in"),
        ({"batch_mean": "yes"}, "batch_mean must be True or False"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Saint(**options)  # type: ignore[arg-type]
