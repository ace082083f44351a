from __future__ import annotations

import pytest
import torch

from streamprune.encoder.token_transforming import TokenTransforming, shares, transformation
from tests.encoder import references
from tests.encoder.towers import SHAPE, NumpyTower, pixels, run


def given_out(temperature: float) -> torch.Tensor:
    """How 6 tokens are shared out among 3 of them."""
    keys = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(3))
    return shares(keys, torch.tensor([[0, 2, 5]]), temperature)


def test_shares_and_rows_sum_to_one_and_centres_keep_themselves() -> None:
    given = given_out(0.3)
    torch.testing.assert_close(given.sum(-1), torch.ones(1, 6))
    assert torch.equal(given[0, [0, 2, 5]], torch.eye(3))
    assert ((given[0, 1] > 0) & (given[0, 1] < 1)).all(), "many to many"
    size = torch.tensor([[1.0, 2.0, 1.0, 4.0, 1.0, 3.0]])
    mix, total = transformation(given, size)
    torch.testing.assert_close(mix.sum(-1), torch.ones(1, 3))
    assert float(total.sum()) == pytest.approx(12)
    torch.testing.assert_close(mix @ torch.full((1, 6, 2), 3.0), torch.full((1, 3, 2), 3.0))


def test_a_low_temperature_merges_exclusively() -> None:
    given = given_out(1e-5)
    assert torch.equal(given, (given > 0.5).float())
    mix, total = transformation(given, torch.ones(1, 6))
    torch.testing.assert_close((mix > 0).sum(-1).float(), total)


def test_two_steps_are_one_matrix() -> None:
    first, _ = transformation(given_out(0.3), torch.ones(1, 6))
    second, _ = transformation(given_out(0.5)[:, :3, :2], torch.ones(1, 3))
    values = torch.randn(1, 6, 4)
    torch.testing.assert_close(second @ (first @ values), (second @ first) @ values)


def test_counts() -> None:
    assert TokenTransforming(layer_keep_share=0.5).counts(SHAPE) == (36, 18, 9, 4)


@pytest.mark.parametrize(("share", "temperature"), [(0.8, 0.02), (0.5, 0.5), (0.3, 1e-4)])
def test_a_whole_run_equals_loops_in_double_precision(share: float, temperature: float) -> None:
    given = pixels(3, drift=1.0)
    out = run(TokenTransforming(layer_keep_share=share, temperature=temperature), given).states[0]
    for frame, states in zip(given, out, strict=True):
        expected = references.token_transforming(NumpyTower(), frame, share, temperature, [1, 2, 3])
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-3)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="temperature must be in"):
        TokenTransforming(temperature=0)
    with pytest.raises(ValueError, match="layer_keep_share must be in"):
        TokenTransforming(layer_keep_share=0)
