"""Distances of directions from centres, and Gaussians of them, against float64 numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from streamprune.ops.gaussian import distances_to_centre, gaussian_similarity, mean_direction


def test_five_widths() -> None:
    similarity = gaussian_similarity(torch.tensor([[0.0, 1.5]]))
    expected = sum(math.exp(-1.5 / (2 * width)) for width in (0.125, 0.25, 0.5, 1, 2))
    torch.testing.assert_close(similarity, torch.tensor([[5.0, expected]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_distances_and_means_of_directions_in_some_channels(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (5 * torch.randn(300, 1000, generator=generator)).to(dtype)
    mask = (torch.arange(1000) % 2).float()
    values[7, 1::2] = 0
    inside = values.double().numpy()[:, 1::2]
    lengths = np.linalg.norm(inside, axis=1)
    unit = inside / np.maximum(lengths, 1e-12)[:, None]

    given = torch.from_numpy(lengths).float()
    centre = mean_direction(values, given, mask)
    np.testing.assert_allclose(centre[1::2], unit.mean(0), atol=1e-6)
    assert not centre[::2].any()

    distances = distances_to_centre(values, given, centre)
    np.testing.assert_allclose(distances, ((unit - unit.mean(0)) ** 2).sum(1), atol=1e-5)
