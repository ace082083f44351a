"""Components against a flood fill, and where the released form stops early."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.components import components, first_come_components


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
