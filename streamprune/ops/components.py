"""Connected components by passing the lowest number along, without a loop over nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


def components(first: torch.Tensor, second: torch.Tensor, nodes: int) -> torch.Tensor:
    """(nodes,) int64: the lowest node of each node's component.

    Args:
        first: (edges,) int64, one end of each edge.
        second: (edges,) int64, the other end.
    """
    lowest = torch.arange(nodes, device=first.device)
    while True:
        one, other = lowest[first], lowest[second]
        open_edges = one != other
        if not bool(open_edges.any()):
            return lowest
        first, second, one, other = first[open_edges], second[open_edges], one[open_edges], other[open_edges]
        lowest.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        lowest = _follow(lowest)


def first_come_components(first: torch.Tensor, second: torch.Tensor, nodes: int) -> torch.Tensor:
    """Like :func:`components`, but stopped as soon as every node points to one that points to itself.

    A node linked to two lower ones that nothing else links goes to the lower of them, and the other stays
    apart: what the released code of arXiv 2507.07990 computes.
    """
    lowest = torch.arange(nodes, device=first.device)
    while True:
        least = torch.minimum(lowest[first], lowest[second])
        lowest.scatter_reduce_(0, torch.cat([first, second]), least.repeat(2), "amin")
        lowest = lowest[lowest]
        if torch.equal(lowest, lowest[lowest]):
            return lowest


def _follow(lowest: torch.Tensor) -> torch.Tensor:
    """Let every node point to where its chain of pointers ends."""
    while not torch.equal(lowest, further := lowest[lowest]):
        lowest = further
    return lowest


@dataclass(frozen=True)
class Forest:
    """The strongest edges that connect the nodes of every frame, without a circle.

    The nodes joined by those above a threshold are the components of all edges above it.

    Attributes:
        first: (frames, nodes - 1) int64 one end, counted within the frame.
        second: (frames, nodes - 1) int64 the other end.
        weight: (frames, nodes - 1) float32.
    """

    first: torch.Tensor
    second: torch.Tensor
    weight: torch.Tensor


def strongest_forest(similarity: torch.Tensor) -> Forest:
    """Grow the tree of the strongest edges in each frame of (frames, nodes, nodes) from its first node."""
    frames, nodes, _ = similarity.shape
    each = torch.arange(frames, device=similarity.device)
    grown = torch.zeros(frames, nodes, dtype=torch.bool, device=similarity.device)
    grown[:, 0] = True
    link = torch.zeros(frames, nodes, dtype=torch.int64, device=similarity.device)
    strength = similarity[:, 0].masked_fill(grown, -torch.inf)
    found = []
    for _ in range(nodes - 1):
        weight, node = strength.max(1)
        found.append((link[each, node], node, weight))
        grown[each, node] = True
        strength[each, node] = -torch.inf
        offered = similarity[each, node].masked_fill_(grown, -torch.inf)
        link = torch.where(offered > strength, node[:, None], link)
        strength = torch.maximum(strength, offered)
    if not found:
        return Forest(link[:, :0], link[:, :0], strength[:, :0])
    return Forest(*(torch.stack(column, 1) for column in zip(*found, strict=True)))


def group_leaders(group: torch.Tensor, degree: torch.Tensor, groups: int) -> torch.Tensor:
    """(groups,) int64: of each group's members, numbered by ``group``, the first of the highest degree."""
    by_degree = torch.sort(degree, descending=True, stable=True).indices
    rank = torch.empty_like(by_degree)
    rank[by_degree] = torch.arange(len(by_degree), device=group.device)
    best = rank.new_full((groups,), len(rank)).scatter_reduce(0, group, rank, "amin")
    return by_degree[best]
