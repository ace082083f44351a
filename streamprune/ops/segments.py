"""Cutting a video into runs of alike frames."""

from __future__ import annotations

import itertools

import torch

from streamprune.ops.selection import lowest


def cut_transitions(
    similarity: torch.Tensor, *, at_least: int = 0, threshold: float | None = None
) -> list[tuple[int, int]]:
    """Cut between frames where the transition is weak.

    Args:
        similarity: (frames - 1,) similarity of each frame with the next.
        at_least: the weakest so many transitions are always cut (all, when there are fewer).
        threshold: transitions strictly below it are cut as well.

    Returns:
        The segments as half-open (start, stop) frame ranges, in order, covering every frame.
    """
    transitions = similarity.shape[0]
    cut = torch.zeros(transitions, dtype=torch.bool, device=similarity.device)
    cut[lowest(similarity, min(at_least, transitions))] = True
    if threshold is not None:
        cut |= similarity < threshold
    edges = [0, *(cut.nonzero()[:, 0] + 1).tolist(), transitions + 1]
    return list(itertools.pairwise(edges))
