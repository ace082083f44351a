from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamprune.encoder.base import LayerInput, LayerReduction, LayerSignals, TowerShape
from streamprune.encoder.token_map import follow
from streamprune.encoder.tome import ToMe, merge_schedule
from tests.encoder import references
from tests.encoder.towers import DEPTH, SHAPE, NumpyTower, pixels, run
from tests.goldens.case import Case


def entering(keys: torch.Tensor, states: torch.Tensor, size: torch.Tensor | None = None) -> LayerInput:
    """One layer of a tower over (frames, tokens) with the same keys in every head."""
    frames, tokens = states.shape[:2]
    place = torch.arange(tokens).expand(frames, -1)
    signals = LayerSignals(keys=keys[:, None])
    return LayerInput(TowerShape(1, tokens, 1), 0, states, size, place, signals)


@pytest.mark.parametrize(
    ("removed", "inflection", "layers", "expected"),
    [
        (8, 0.0, 12, [8] * 12),
        (8, -1.0, 12, [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0]),
        (8, 1.0, 3, [0, 8, 16]),
        (8, 0.0, 1, [8]),
        (8, -1.0, 1, [16]),
        ([3, 2], 0.0, 4, [3, 2, 0, 0]),
        ([3, 2, 1], 0.0, 2, [3, 2]),
        (0, -1.0, 2, [0, 0]),
    ],
)
def test_schedules(removed: int | list[int], inflection: float, layers: int, expected: list[int]) -> None:
    assert merge_schedule(removed, inflection, layers) == expected


def test_pairs_become_their_means_and_come_back() -> None:
    keys = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    states = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    both = ToMe(removed=2).reduce_layer(entering(keys, states))
    assert both.step is not None
    assert both.size is not None
    left = both.step.apply(states)
    assert left.flatten().tolist() == [1.5, 3.5]
    assert both.size.tolist() == [[2, 2]]
    assert both.step.restore(left).flatten().tolist() == [1.5, 1.5, 3.5, 3.5]
    one = ToMe(removed=1).reduce_layer(entering(keys, states))
    assert one.size is not None
    assert sorted(one.size.flatten().tolist()) == [1, 1, 2]


def test_a_token_of_many_patches_weighs_as_many() -> None:
    keys = torch.ones(1, 2, 3)
    states = torch.tensor([[[1.0], [4.0]]])
    size = torch.tensor([[5.0, 1.0]])
    merged = ToMe(removed=1).reduce_layer(entering(keys, states, size))
    assert merged.step is not None
    assert merged.size is not None
    assert float(merged.step.apply(states)) == pytest.approx(9 / 6)
    assert float(merged.size) == 6


def test_at_most_half_goes_in_a_layer() -> None:
    assert ToMe(removed=100).counts(SHAPE) == (18, 9, 5, 3)
    assert ToMe(removed=100).counts(TowerShape(2, 1, 1)) == (1, 1)


def test_four_fifths_go_unless_said_otherwise() -> None:
    assert ToMe().counts(TowerShape(12, 14, 14)) == tuple(196 - 13 * layer for layer in range(1, 13))
    counts = ToMe().counts(TowerShape(26, 27, 27))
    assert counts is not None
    assert counts[-1] == 729 - 26 * 22
    assert ToMe(layers=(1, 3)).counts(SHAPE) == (36, 22, 22, 11)


@pytest.mark.parametrize("proportional", [True, False])
@pytest.mark.parametrize("removed", [(5, 5, 5, 5), (12, 0, 7, 20)])
def test_a_whole_run_equals_loops_in_double_precision(removed: tuple[int, ...], proportional: bool) -> None:
    given = pixels(3, drift=1.0)
    out = run(ToMe(removed=removed, proportional=proportional), given).states[0]
    for frame, states in zip(given, out, strict=True):
        expected = references.tome(NumpyTower(), frame, list(removed), proportional)
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


def test_size_in_the_attention_matters() -> None:
    given = pixels(2)
    weighed, flat = (run(ToMe(removed=8, proportional=p), given).states[0] for p in (True, False))
    assert (weighed - flat).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["case2", "case5_dup_tokens"])
def test_a_layer_equals_what_was_recorded_of_the_release(name: str) -> None:
    case = Case(Path(__file__).parents[1] / "goldens" / "recorded" / "tome" / f"{name}.npz")
    values, metric = case.given("x"), case.given("metric")
    decision = ToMe(removed=case.hp["r"]).reduce_layer(entering(metric, values))
    assert decision.step is not None
    assert decision.size is not None
    left = decision.step.apply(values)
    case.close("values", left)
    case.same("size", decision.size)
    case.same("source", decision.step.slot - left.shape[1] * torch.arange(len(left))[:, None])
    case.close("unmerged_round0", decision.step.restore(left))


def test_every_patch_counts_once_in_the_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    decisions: list[LayerReduction] = []
    decide = ToMe.reduce_layer

    def watched(method: ToMe, at: LayerInput) -> LayerReduction:
        decisions.append(decide(method, at))
        return decisions[-1]

    monkeypatch.setattr(ToMe, "reduce_layer", watched)
    run(ToMe(removed=9), pixels(1))
    ends = follow([decision.step for decision in decisions if decision.step is not None])
    size = decisions[-1].size
    assert size is not None
    assert len(decisions) == DEPTH
    assert torch.equal(torch.bincount(ends.flatten()).float(), size.flatten())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removed": -1}, "removed must be at least 0"),
        ({"removed": [3, -1]}, "removed must be at least 0"),
        ({"removed": 2.5}, "removed must be"),
        ({"removed": "8"}, "removed must be an integer or a list"),
        ({"removed": True}, "removed must be an integer"),
        ({"inflection": 2}, "inflection must be in"),
        ({"removed": [1], "inflection": 0.5}, "inflection belongs to a single number"),
        ({"proportional": 1}, "proportional must be True or False"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToMe(**options)  # type: ignore[arg-type]
