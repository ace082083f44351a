"""Connected components by passing the lowest number along, without a loop over nodes."""

from __future__ import annotations

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
