"""Components against a flood fill, and where the released form stops early."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.components import (
    components,
    first_come_components,
    group_leaders,
    strongest_forest,
)


def flood(edges: list[tuple[int, int]], nodes: int) -> list[int]:
    label = [-1] * nodes
    for start in range(nodes):
        stack = [start] if label[start] < 0 else []
        while stack:
            node = stack.pop()
            if label[node] < 0:
                label[node] = start
                stack += [b if a == node else a for a, b in edges if node in (a, b)]
    return label


@pytest.mark.parametrize(("nodes", "edges"), [(30, 12), (30, 30), (60, 45), (5, 0), (1, 1)])
def test_against_a_flood_fill(nodes: int, edges: int) -> None:
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        first, second = torch.randint(nodes, (2, edges), generator=generator)
        pairs = list(zip(first.tolist(), second.tolist(), strict=True))
        assert components(first, second, nodes).tolist() == flood(pairs, nodes)


def test_a_long_chain_in_any_order() -> None:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert not components(order[:-1], order[1:], 200).any()
    assert not first_come_components(torch.arange(199), torch.arange(1, 200), 200).any()


def test_the_released_form_leaves_the_second_of_two_that_only_a_later_node_links() -> None:
    first, second = torch.tensor([0, 1]), torch.tensor([2, 2])
    assert components(first, second, 4).tolist() == [0, 0, 0, 3]
    assert first_come_components(first, second, 4).tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("nodes", [1, 2, 9, 25])
def test_the_strongest_forest_connects_what_all_edges_above_a_threshold_connect(nodes: int) -> None:
    generator = torch.Generator().manual_seed(nodes)
    values = torch.randn(3, nodes, 4, generator=generator)
    similarity = values @ values.mT
    before = similarity.clone()
    forest = strongest_forest(similarity)
    assert torch.equal(similarity, before)
    assert forest.weight.shape == (3, nodes - 1)
    for frame in range(3):
        ends = (frame, forest.first[frame], forest.second[frame])
        assert torch.equal(similarity[ends], forest.weight[frame])
        for threshold in (-100.0, -0.5, 0.5, 1.5, 3.0, 100.0):
            strong = forest.weight[frame] > threshold
            edges = (similarity[frame] > threshold).triu(1).nonzero().tolist()
            found = components(forest.first[frame][strong], forest.second[frame][strong], nodes)
            assert found.tolist() == flood([(a, b) for a, b in edges], nodes)


def test_leaders_have_the_highest_degree_and_the_lowest_number_among_equals() -> None:
    group, degree = torch.tensor([0, 1, 0, 1, 2, 0]), torch.tensor([2, 1, 3, 1, 0, 3])
    assert group_leaders(group, degree, 3).tolist() == [2, 1, 4]
