"""Cutting a video into runs of alike frames."""

from __future__ import annotations

import itertools

import torch

from streamprune.ops.density import density_clusters, scaled_distances
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


def runs_of_equal(labels: list[int]) -> list[tuple[int, int]]:
    """The half-open (start, stop) ranges of neighbouring frames with the same label, in order."""
    edges = [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
    return list(itertools.pairwise([0, *edges, len(labels)]))


def static_windows(alike: torch.Tensor, *, longest: int | None = None) -> tuple[list[tuple[int, int]], int]:
    """Cut where most tokens are saved by storing places that stay alike throughout a segment only once.

    A segment of ``w`` frames saves ``w - 1`` tokens for each place that is alike at all its transitions.
    Dynamic programming finds the best of all cuttings, in time (frames x (frames + places)).

    Args:
        alike: (frames - 1, places) bool, whether a place is alike in a frame and the next.
        longest: most frames of a segment; None = no limit.

    Returns:
        The segments as half-open (start, stop) frame ranges covering every frame, and the tokens saved. Of
        equally good ends a single frame is preferred, then the shorter segment.

    Source: the segmentation of arXiv 2505.21334.
    """
    transitions, places = alike.shape
    most = transitions + 1 if longest is None else longest
    # best[i]: most tokens saved in the first i frames
    best = torch.zeros(transitions + 2, dtype=torch.int64)
    length = [1] * (transitions + 1)
    streak = torch.zeros(places, dtype=torch.int64)
    for frame, same in enumerate(alike.cpu(), 1):
        streak = (streak + 1) * same
        widest = min(frame + 1, most)
        # still[s]: places alike at the last s transitions at least
        still = torch.bincount(streak, minlength=widest).flip(0).cumsum(0).flip(0)[:widest]
        saved = best[frame + 1 - widest : frame + 1].flip(0) + still * torch.arange(widest)
        best[frame + 1] = saved.max()
        length[frame] = 1 + int((saved == best[frame + 1]).nonzero()[0])
    segments = []
    stop = transitions + 1
    while stop > 0:
        segments.append((stop - length[stop - 1], stop))
        stop = segments[-1][0]
    return segments[::-1], int(best[-1])


def cluster_segments(frame_features: torch.Tensor, clusters: int, neighbors: int) -> list[tuple[int, int]]:
    """Cluster frames by density peaks wherever they stand, then make the clusters contiguous.

    Args:
        frame_features: (frames, channels).
        clusters: how many clusters are made, 1 to frames; how many segments come out may differ.
        neighbors: how many nearest frames, itself included, make a frame's density.

    Returns:
        The segments as half-open (start, stop) frame ranges, in order, covering every frame.

    Source: the segmentation of arXiv 2412.16117.
    """
    return runs_of_equal(settle_labels(cluster_labels(frame_features, clusters, neighbors)))


def cluster_labels(frame_features: torch.Tensor, clusters: int, neighbors: int) -> list[int]:
    """Cluster number of each frame of (frames, channels), before :func:`settle_labels`."""
    _, joined = density_clusters(scaled_distances(frame_features[None]), clusters, neighbors)
    return [int(label) for label in joined[0]]


def settle_labels(labels: list[int]) -> list[int]:
    """Let each cluster of frames keep its longest runs and give the frames between to a neighbour.

    A label stays on its longest run (on all that are equally long), and on none when that is a single frame.
    From left to right, the frames in a gap then take the label of the longer run beside it, the left one when
    both are equally long; a filled gap lengthens the run it joined. With no run left all labels are 0.
    """
    longest: dict[int, int] = {}
    for start, stop in runs_of_equal(labels):
        longest[labels[start]] = max(longest.get(labels[start], 0), stop - start)
    gap = -1
    settled = list(labels)
    for start, stop in runs_of_equal(labels):
        if stop - start < max(2, longest[labels[start]]):
            settled[start:stop] = [gap] * (stop - start)
    while gap in settled:
        runs = runs_of_equal(settled)
        place = next(i for i, (start, _) in enumerate(runs) if settled[start] == gap)
        start, stop = runs[place]
        beside = [runs[i] for i in (place - 1, place + 1) if 0 <= i < len(runs)]
        label = settled[max(beside, key=lambda run: run[1] - run[0])[0]] if beside else 0
        settled[start:stop] = [label] * (stop - start)
    return settled
