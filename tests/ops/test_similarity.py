"""Blockwise similarity against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.similarity import (
    adjacent_cosine,
    cosines,
    frame_grams,
    gram,
    inner_products,
    most_similar,
    squared_distances,
    unit_rows,
)


def draw(rows: int, channels: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed))


def test_unit_rows_have_length_one_and_zero_rows_stay() -> None:
    values = draw(5)
    values[2] = 0
    unit = unit_rows(values.half())
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=1), torch.tensor([1.0, 1, 0, 1, 1]))


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_adjacent_cosine(rows: int) -> None:
    values = draw(rows)
    exact = values.double().numpy()
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(adjacent_cosine(values), (exact[:-1] * exact[1:]).sum(1), atol=1e-6)


@pytest.mark.parametrize(("left", "right", "channels"), [(1, 1, 5), (3, 0, 5), (70, 80, 24), (70, 80, 1000)])
def test_inner_products_large_and_small(left: int, right: int, channels: int) -> None:
    a, b = draw(left, channels), draw(right, channels, seed=1)
    np.testing.assert_allclose(inner_products(a, b), a.double().numpy() @ b.double().numpy().T, atol=1e-3)


@pytest.mark.parametrize(("rows", "channels"), [(1, 24), (65, 24), (66, 24), (67, 24), (200, 24), (140, 900)])
def test_gram_is_every_inner_product(rows: int, channels: int) -> None:
    values = draw(rows, channels)
    exact = values.double().numpy()
    products = gram(values)
    np.testing.assert_allclose(products, exact @ exact.T, atol=1e-3)
    torch.testing.assert_close(products, products.T)


def test_gram_of_half_precision_is_that_of_the_widened_values() -> None:
    values = draw(80, 900).half().requires_grad_()
    assert torch.equal(gram(values), gram(values.float()))


def test_frame_grams_are_the_gram_of_each_frame() -> None:
    values = draw(60).reshape(3, 20, 24).half()
    products = frame_grams(values)
    for frame in range(3):
        torch.testing.assert_close(products[frame], gram(values[frame]))


def test_cosines_of_a_gram_and_of_a_zero_row() -> None:
    values = draw(9)
    values[4] = 0
    cosine = cosines(gram(values)[None])[0]
    torch.testing.assert_close(cosine, unit_rows(values) @ unit_rows(values).T, atol=1e-6, rtol=0)
    assert not cosine[4].any()


def test_squared_distances() -> None:
    values = torch.cat([draw(6), draw(6)[:2]])
    exact = values.double().numpy()
    expected = ((exact[:, None] - exact[None]) ** 2).sum(-1)
    distances = squared_distances(gram(values))
    np.testing.assert_allclose(distances, expected, atol=1e-4)
    assert (distances >= 0).all()
    assert torch.equal(distances.diagonal(), torch.zeros(8))


@pytest.mark.parametrize("block_rows", [1, 7, 1024])
def test_most_similar_is_the_highest_cosine(block_rows: int) -> None:
    values, targets = draw(50) * torch.linspace(0.1, 30, 50)[:, None], 5 * draw(8, seed=1)
    left, right = values.double().numpy(), targets.double().numpy()
    cosine = left @ right.T / np.linalg.norm(left, axis=1)[:, None] / np.linalg.norm(right, axis=1)
    np.testing.assert_array_equal(most_similar(values, targets, block_rows=block_rows), cosine.argmax(1))


def test_ties_zero_rows_and_nothing_go_to_the_lowest_target() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    values = torch.tensor([[3.0, 0.0], [0.0, 0.0], [0.0, 0.5]])
    assert most_similar(values, targets).tolist() == [0, 0, 1]
    assert most_similar(values[:0], targets).shape == (0,)
