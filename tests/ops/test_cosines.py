"""Blockwise cosine distances against float64 numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops import cosines
from streamprune.ops.cosines import CosineRows


def draw(rows: int, channels: int = 12) -> torch.Tensor:
    values = torch.randn(rows, channels, generator=torch.Generator().manual_seed(rows))
    return values * torch.linspace(0.1, 30, rows)[:, None]


def distances_of(values: torch.Tensor) -> npt.NDArray[np.float64]:
    """Every distance; infinite from a row to itself."""
    exact = values.double().numpy()
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = exact / np.where(length > 0, length, 1)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    return distances


@pytest.mark.parametrize("packed", [True, False])
def test_distances_to_the_nearest(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosines, "_PACKED_FROM", 0 if packed else 2**40)
    values = draw(40)
    values[7] = 0
    rows, expected = CosineRows(values), distances_of(values)
    assert (rows._packed is not None) == packed
    index = torch.tensor([5, 7, 30])
    np.testing.assert_allclose(rows.to_nearest_of(index), expected[index].min(0), atol=1e-6)
    cosine = np.where(
        np.isinf(expected[index]), (values[index].norm(dim=1) > 0)[:, None], 1 - expected[index]
    )
    np.testing.assert_allclose(rows.similarities(index), cosine, atol=1e-6)
    own, of_them = rows.to_nearest(index)
    np.testing.assert_allclose(own, expected[index].min(1), atol=1e-6)
    np.testing.assert_allclose(of_them, expected[index].min(0), atol=1e-6)
    assert rows.to_nearest_of(torch.tensor([3]))[3] > 1e30, "a row is not compared with itself"


def test_distances_between_some_rows() -> None:
    values = draw(40)
    rows, expected = CosineRows(values.half()), distances_of(values.half())
    left, right = torch.tensor([3, 9]), torch.arange(40)
    np.testing.assert_allclose(rows.between(left, right), expected[left], atol=1e-6)
    careful = rows.carefully_between(left, right)
    assert careful.dtype == torch.float32
    np.testing.assert_array_equal(careful, expected[left].astype(np.float32))


@pytest.mark.parametrize("offset", [1, 6, 7, 39])
def test_distances_of_rows_apart(offset: int) -> None:
    values = draw(40)
    expected = distances_of(values)
    shifted = CosineRows(values).to_shifted(offset)
    np.testing.assert_allclose(shifted, expected.diagonal(offset), atol=1e-6)
