from __future__ import annotations

import pytest
import torch

from streamprune.encoder.base import LayerInput, LayerReduction, LayerSignals, TowerShape
from streamprune.encoder.ppt import PPT, attended_scores
from tests.encoder import references
from tests.encoder.towers import SHAPE, NumpyTower, pixels, run

TOKENS = 8
LINE = TowerShape(12, TOKENS, 1)


def decide(queries: torch.Tensor, values: torch.Tensor, **options: float) -> LayerReduction:
    """Layer 3 of frames of 8 tokens, one head; the keys are the unit vectors."""
    frames = len(queries)
    keys = torch.eye(TOKENS).expand(frames, 1, -1, -1)
    place = torch.arange(TOKENS).expand(frames, -1)
    states = torch.eye(TOKENS).expand(frames, -1, -1)
    signals = LayerSignals(queries=queries[:, None], keys=keys, values=values[:, None])
    at = LayerInput(LINE, 3, states, None, place, signals)
    return PPT(removed=3, **options).reduce_layer(at)  # type: ignore[arg-type]


def test_even_attention_merges_and_attention_on_one_token_prunes() -> None:
    even, sharp = torch.zeros(TOKENS, TOKENS), torch.zeros(TOKENS, TOKENS)
    sharp[:, 5] = 50.0
    values = torch.ones(TOKENS, 4)
    scores = attended_scores(torch.tensor([[1.0 / TOKENS] * TOKENS]), values[None, None])
    assert float(scores.var()) == 0
    alone = attended_scores(torch.eye(TOKENS)[5:6], values[None, None])
    assert float(alone.var()) == pytest.approx(1 / TOKENS)
    decision = decide(torch.stack([even, sharp]), torch.stack([values, values]))
    assert decision.step is not None
    assert decision.size is not None
    assert decision.step.index.shape == (2, TOKENS - 3)
    assert decision.size.sum(1).tolist() == [TOKENS, TOKENS - 3], "merged ones count on, pruned ones do not"
    assert int(decision.step.index[1, 0]) == TOKENS + 5, "pruning leaves by falling score"
    left = decision.step.apply(torch.eye(TOKENS).expand(2, -1, -1))
    assert torch.equal(left[1], torch.eye(TOKENS)[decision.step.index[1] - TOKENS])


def test_zero_values_score_all_alike() -> None:
    scores = attended_scores(torch.rand(1, 5), torch.zeros(1, 2, 5, 3))
    assert scores.tolist() == [[pytest.approx(0.2)] * 5]


def test_defaults_are_those_published_for_196_patches() -> None:
    small = TowerShape(12, 14, 14)
    assert PPT().acting_layers(small) == (3, 6, 9)
    counts = PPT().counts(small)
    assert counts is not None
    assert sorted(set(counts), reverse=True) == [196, 146, 96, 48]
    assert PPT().acting_layers(TowerShape(26, 27, 27)) == (6, 13, 19)
    assert PPT().acting_layers(SHAPE) == (1, 2, 3)


@pytest.mark.parametrize("threshold", [0.0, 4e-5, 1.0])
def test_a_whole_run_equals_loops_in_double_precision(threshold: float) -> None:
    given = pixels(6, drift=1.5)
    out = run(PPT(removed=6, variance_threshold=threshold), given).states[0]
    pruned = []
    for frame, states in zip(given, out, strict=True):
        expected, branches = references.ppt(NumpyTower(), frame, 6, threshold, [1, 2, 3])
        pruned += branches
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)
    if threshold in (0.0, 1.0):
        assert set(pruned) == {threshold == 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removed": -1}, "removed must be at least 0"),
        ({"variance_threshold": -1e-3}, "variance_threshold must be in"),
        ({"variance_threshold": float("nan")}, "variance_threshold must be in"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPT(**options)  # type: ignore[arg-type]
