"""Variance of channels and lengths in some of them, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.subspace import channel_moments, masked_lengths


def draw(rows: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    spread = torch.rand(channels, generator=generator) * 3
    return torch.randn(rows, channels, generator=generator) * spread


@pytest.mark.parametrize(("rows", "channels"), [(1, 5), (9, 1), (700, 1000)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_mean_and_variance_of_channels(rows: int, channels: int, mean: float) -> None:
    values = draw(rows, channels) + mean
    means, variances = channel_moments(values)
    np.testing.assert_allclose(means, values.double().numpy().mean(0), atol=1e-5)
    np.testing.assert_allclose(variances, values.double().numpy().var(0), rtol=1e-4)


def test_channels_without_variance_are_told_apart_from_none() -> None:
    values = draw(300, 6)
    values[:, 2], values[:, 5] = 0.1, 7e4
    _, variance = channel_moments(values.bfloat16())
    assert (variance == 0).nonzero()[:, 0].tolist() == [2, 5]


def test_masked_lengths() -> None:
    values, mask = draw(700, 1000), (torch.arange(1000) % 3 == 0).float()
    values[5, ::3] = 0
    exact = np.linalg.norm(values.double().numpy()[:, ::3], axis=1)
    lengths = masked_lengths(values, mask)
    np.testing.assert_allclose(lengths, exact, rtol=1e-5)
    assert float(lengths[5]) == 0
