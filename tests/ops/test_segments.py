"""Where a clip is cut."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.segments import cut_transitions


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
