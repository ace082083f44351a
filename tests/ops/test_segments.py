"""Where a clip is cut."""

from __future__ import annotations

import itertools

import pytest
import torch

from streamprune.ops.segments import (
    cluster_labels,
    cluster_segments,
    cut_transitions,
    runs_of_equal,
    settle_labels,
    static_windows,
)


@pytest.mark.parametrize(
    ("similarity", "at_least", "threshold", "segments"),
    [
        ([], 0, None, [(0, 1)]),
        ([], 7, 0.9, [(0, 1)]),
        ([0.5, 0.9, 0.2, 0.7], 0, None, [(0, 5)]),
        ([0.5, 0.9, 0.2, 0.7], 1, None, [(0, 3), (3, 5)]),
        ([0.5, 0.9, 0.2, 0.7], 2, None, [(0, 1), (1, 3), (3, 5)]),
        ([0.5, 0.9, 0.2, 0.7], 9, None, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ([0.5, 0.9, 0.2, 0.7], 0, 0.7, [(0, 1), (1, 3), (3, 5)]),
        ([0.5, 0.9, 0.2, 0.7], 1, 0.6, [(0, 1), (1, 3), (3, 5)]),
        ([1.0, 1.0, 1.0, 1.0], 2, 0.9, [(0, 1), (1, 2), (2, 5)]),
    ],
)
def test_weak_transitions_are_cut(
    similarity: list[float], at_least: int, threshold: float | None, segments: list[tuple[int, int]]
) -> None:
    assert cut_transitions(torch.tensor(similarity), at_least=at_least, threshold=threshold) == segments


@pytest.mark.parametrize(
    ("labels", "settled"),
    [
        ([3], [0]),
        ([5, 5], [5, 5]),
        ([0, 0, 1, 0, 2, 2, 3, 3], [0, 0, 0, 0, 2, 2, 3, 3]),
        ([0, 1, 0, 1, 1, 0, 0, 2], [1, 1, 1, 1, 1, 0, 0, 0]),
        ([0, 0, 1, 1, 0, 0, 2, 2], [0, 0, 1, 1, 0, 0, 2, 2]),
        ([0, 1, 2, 3], [0, 0, 0, 0]),
        # the filled gap makes the left run long enough to win the next one
        ([0, 0, 1, 0, 2, 0, 3, 3, 3], [0, 0, 3, 3, 3, 3, 3, 3, 3]),
        ([0, 0, 0, 1, 2, 2, 4, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 2, 2, 2]),
        # the right run counts as it stands
        ([0, 0, 1, 2, 2, 2], [0, 0, 2, 2, 2, 2]),
    ],
)
def test_labels_are_settled(labels: list[int], settled: list[int]) -> None:
    before = list(labels)
    assert settle_labels(labels) == settled
    assert labels == before


def test_runs_of_equal() -> None:
    assert runs_of_equal([4]) == [(0, 1)]
    assert runs_of_equal([4, 4, 2, 4]) == [(0, 2), (2, 3), (3, 4)]


def saving(alike: torch.Tensor, start: int, stop: int) -> int:
    """Tokens saved by a segment, from the definition."""
    return int(alike[start : stop - 1].all(0).sum()) * (stop - start - 1) if stop - start > 1 else 0


@pytest.mark.parametrize("longest", [None, 1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_no_other_cutting_saves_more(longest: int | None, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    transitions = 1 + seed
    alike = torch.rand(transitions, 5, generator=generator) < 0.75
    segments, saved = static_windows(alike, longest=longest)
    best = 0
    for cuts in itertools.product([False, True], repeat=transitions):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), transitions + 1]
        ranges = list(itertools.pairwise(edges))
        if longest is None or all(stop - start <= longest for start, stop in ranges):
            best = max(best, sum(saving(alike, *r) for r in ranges))
    assert saved == best == sum(saving(alike, *r) for r in segments)
    assert [start for start, _ in segments] == [0, *(stop for _, stop in segments[:-1])]
    assert segments[-1][1] == transitions + 1
    assert longest is None or all(stop - start <= longest for start, stop in segments)


@pytest.mark.parametrize(
    ("alike", "longest", "segments", "saved"),
    [
        ([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1]], None, [(0, 3), (3, 6)], 10),
        ([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1]], None, [(0, 2), (2, 4)], 8),
        ([[0, 0]] * 3, None, [(0, 1), (1, 2), (2, 3), (3, 4)], 0),
        ([[1, 1]] * 3, None, [(0, 4)], 6),
        # equally good ends: the last segment is the shortest
        ([[1]] * 4, 3, [(0, 3), (3, 5)], 3),
    ],
)
def test_static_windows_by_hand(
    alike: list[list[int]], longest: int | None, segments: list[tuple[int, int]], saved: int
) -> None:
    assert static_windows(torch.tensor(alike).bool(), longest=longest) == (segments, saved)


def test_a_single_frame_is_a_segment() -> None:
    assert static_windows(torch.zeros(0, 4, dtype=torch.bool)) == ([(0, 1)], 0)
    assert cluster_segments(torch.ones(1, 4), 1, 7) == [(0, 1)]


def test_scenes_are_found_by_clustering_frames() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = torch.tensor([0] * 5 + [1] * 3 + [2] * 6)
    looks = 5 * torch.randn(3, 8, generator=generator)
    frames = looks[scene] + 0.1 * torch.randn(14, 8, generator=generator)
    labels = cluster_labels(frames, 3, 3)
    assert runs_of_equal(labels) == [(0, 5), (5, 8), (8, 14)]
    assert cluster_segments(frames, 3, 3) == [(0, 5), (5, 8), (8, 14)]
    # a frame that looks like an earlier scene is given to the scene around it
    frames[12] = looks[0]
    assert cluster_segments(frames, 3, 3) == [(0, 5), (5, 8), (8, 14)]
