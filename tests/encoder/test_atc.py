from __future__ import annotations

import math

import pytest
import torch

from streamprune.encoder.atc import ATC
from streamprune.encoder.base import LayerInput, LayerSignals, TowerShape
from tests.encoder import references
from tests.encoder.towers import SHAPE, NumpyTower, pixels, run


def test_points_on_a_circle() -> None:
    angles = [math.radians(degrees) for degrees in (0, 1, 50, 51, 120)]
    keys = torch.tensor([[math.cos(a), math.sin(a)] for a in angles])[None]
    states = torch.tensor([[[1.0], [3.0], [5.0], [9.0], [11.0]]])
    signals = LayerSignals(keys=keys[:, None])
    at = LayerInput(TowerShape(1, 5, 1), 0, states, None, torch.arange(5)[None], signals)
    decision = ATC(layer_keep_share=0.7).reduce_layer(at)
    assert decision.step is not None
    assert decision.size is not None
    assert decision.step.slot.tolist() == [[0, 0, 1, 1, 2]]
    assert decision.size.tolist() == [[2, 2, 1]]
    assert decision.step.apply(states).flatten().tolist() == [2, 7, 11]


def test_counts_are_powers_of_the_share_rounded_down() -> None:
    assert ATC(layer_keep_share=0.9).counts(SHAPE) == (36, 32, 29, 26)
    assert ATC(layer_keep_share=0.01).counts(SHAPE) == (36, 1, 1, 1)


@pytest.mark.parametrize("linkage", ["average", "single", "complete"])
def test_a_whole_run_equals_loops_in_double_precision(linkage: str) -> None:
    given = pixels(2, drift=1.0)
    out = run(ATC(layer_keep_share=0.6, linkage=linkage), given).states[0]  # type: ignore[arg-type]
    for frame, states in zip(given, out, strict=True):
        expected = references.atc(NumpyTower(), frame, 0.6, linkage, [1, 2, 3])
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


def test_options_are_checked() -> None:
    for share in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="layer_keep_share must be in"):
            ATC(layer_keep_share=share)
    with pytest.raises(ValueError, match="unknown linkage of atc 'ward'"):
        ATC(linkage="ward")  # type: ignore[arg-type]
