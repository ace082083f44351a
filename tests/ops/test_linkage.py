"""Agglomerative clustering against the definition of each linkage, merged pair by pair."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops.linkage import Linkage, agglomerate

DISTANCE: dict[Linkage, Callable[[npt.NDArray[np.float64]], float]] = {
    "average": lambda block: float(block.mean()),
    "complete": lambda block: float(block.max()),
    "single": lambda block: float(block.min()),
}


def by_definition(distances: npt.NDArray[np.float64], clusters: int, linkage: Linkage) -> list[int]:
    groups = [[point] for point in range(len(distances))]
    while len(groups) > clusters:
        first, second = min(
            itertools.combinations(range(len(groups)), 2),
            key=lambda pair: (DISTANCE[linkage](distances[np.ix_(groups[pair[0]], groups[pair[1]])]), pair),
        )
        groups[first] += groups.pop(second)
    groups.sort(key=min)
    return [next(n for n, group in enumerate(groups) if point in group) for point in range(len(distances))]


def drawn(frames: int, points: int, seed: int) -> torch.Tensor:
    values = torch.randn(frames, points, 5, generator=torch.Generator().manual_seed(seed))
    return (values[:, :, None] - values[:, None]).square().sum(-1)


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
@pytest.mark.parametrize(("points", "clusters"), [(20, 4), (13, 1), (9, 8), (2, 1), (5, 5), (1, 1)])
def test_every_linkage_is_its_definition(linkage: Linkage, points: int, clusters: int) -> None:
    distances = drawn(3, points, seed=points)
    before = distances.clone()
    found = agglomerate(distances, clusters, linkage)
    assert torch.equal(distances, before)
    for frame in range(3):
        assert found[frame].tolist() == by_definition(distances[frame].double().numpy(), clusters, linkage)


def test_points_on_a_line() -> None:
    place = torch.tensor([120.0, 0, 50, 1, 51])
    distances = (place[:, None] - place).abs()[None]
    assert agglomerate(distances, 3).tolist() == [[0, 1, 2, 1, 2]]


def test_single_linkage_chains_where_the_others_do_not() -> None:
    place = torch.tensor([0.0, 1, 2, 3, 4.5, 6.5])
    distances = (place[:, None] - place).abs()[None]
    assert agglomerate(distances, 2, "single").tolist() == [[0, 0, 0, 0, 0, 1]]
    assert agglomerate(distances, 2, "complete").tolist() == [[0, 0, 0, 0, 1, 1]]


@pytest.mark.parametrize("linkage", ["average", "complete", "single"])
def test_ties_go_to_the_lower_cluster(linkage: Linkage) -> None:
    assert agglomerate(torch.zeros(2, 6, 6), 3, linkage).tolist() == [[0, 0, 0, 0, 1, 2]] * 2


def test_only_what_is_above_the_diagonal_counts() -> None:
    distances = drawn(2, 12, seed=3)
    assert torch.equal(agglomerate(distances.triu(1), 4), agglomerate(distances, 4))
