"""Outliers on a line against the plain definition, neighbour by neighbour, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops.outliers import local_outlier_factors

Floats = npt.NDArray[np.float64]


def reference(values: Floats, neighbors: int) -> Floats:
    distance = np.abs(values[:, None] - values[None])
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :neighbors]
    reach = np.array([distance[i, nearest[i, -1]] for i in range(len(values))])
    density = np.array(
        [
            1 / (np.mean([max(distance[i, j], reach[j]) for j in nearest[i]]) + 1e-10)
            for i in range(len(values))
        ]
    )
    return np.array([density[nearest[i]].mean() / density[i] for i in range(len(values))])


@pytest.mark.parametrize(
    ("rows", "numbers", "neighbors"), [(3, 40, 10), (2, 7, 3), (1, 60, 20), (2, 5, 4), (1, 2, 1)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_definition(rows: int, numbers: int, neighbors: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.exp(1.5 * generator.standard_normal((rows, numbers)))
    factors = local_outlier_factors(torch.from_numpy(values), neighbors)
    np.testing.assert_allclose(factors, [reference(row, neighbors) for row in values], rtol=1e-9)


def test_two_numbers_far_off_stand_apart_from_even_steps() -> None:
    values = torch.cat([torch.arange(30.0), torch.tensor([90.0, 200.0])])[None]
    assert (local_outlier_factors(values, 5) > 1.5)[0].nonzero()[:, 0].tolist() == [30, 31]


@pytest.mark.parametrize("numbers", [1, 2, 9])
def test_equal_numbers_are_no_outliers(numbers: int) -> None:
    torch.testing.assert_close(
        local_outlier_factors(torch.full((2, numbers), 0.25), 4), torch.ones(2, numbers, dtype=torch.float64)
    )


def test_more_neighbours_than_numbers_means_all_of_them() -> None:
    values = torch.tensor([[0.0, 1.0, 3.0, 7.0]])
    assert torch.equal(local_outlier_factors(values, 50), local_outlier_factors(values, 3))
    assert local_outlier_factors(values[:, :0], 3).shape == (1, 0)


def test_every_row_is_a_list_of_its_own_in_its_own_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(4, 25, generator=generator)
    factors = local_outlier_factors(values, 6)
    shuffled = torch.randperm(25, generator=generator)
    assert torch.equal(local_outlier_factors(values[1:3][:, shuffled], 6), factors[1:3][:, shuffled])
