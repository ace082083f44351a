"""Which frames are taken for key frames."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.keyframes import differential_keyframes, spread_over_gaps
from streamprune.ops.selection import highest


def test_frames_like_one_taken_are_passed_over() -> None:
    looks = torch.eye(3)[[0, 0, 1, 1, 2, 0]]
    relevance = torch.tensor([0.5, 0.9, 0.8, 0.8, 0.1, 0.7])
    taken = differential_keyframes(looks, relevance, 9, similarity_threshold=0.85)
    assert taken == [1, 2, 4]
    assert differential_keyframes(looks, relevance, 2, similarity_threshold=0.85) == [1, 2]
    above = differential_keyframes(looks, relevance, 9, similarity_threshold=0.85, relevance_threshold=0.5)
    assert above == [1, 2]
    assert differential_keyframes(looks, relevance, 0, similarity_threshold=0.85) == []


@pytest.mark.parametrize("count", [1, 4, 12, 20])
def test_a_threshold_of_one_takes_the_most_relevant(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    looks, relevance = torch.randn(12, 6, generator=generator), torch.rand(12, generator=generator)
    looks[5] = looks[2]
    taken = differential_keyframes(looks, relevance, count, similarity_threshold=1.0)
    assert taken == sorted(highest(relevance, count).tolist())


@pytest.mark.parametrize(
    ("chosen", "frames", "count", "filled"),
    [
        ([3], 12, 1, [3]),
        ([1, 2, 3], 12, 2, [1, 2, 3]),
        # gaps 0-2 and 4-11: spacing 3 adds none and 2, spacing 2 would add 1 and 3
        ([3], 12, 3, [3, 7, 10]),
        # spacing 3 adds 2, and the last frame is filled in
        ([3], 12, 4, [3, 7, 10, 11]),
        ([3], 12, 5, [2, 3, 6, 8, 10]),
        ([], 8, 3, [2, 4, 6]),
        # equal steps of 2 run over the end of the gap: 2, 4, 4 and one filled in
        ([5], 6, 4, [2, 3, 4, 5]),
        ([0, 1], 2, 2, [0, 1]),
    ],
)
def test_gaps_are_filled_evenly(chosen: list[int], frames: int, count: int, filled: list[int]) -> None:
    assert spread_over_gaps(chosen, frames, count) == filled


@pytest.mark.parametrize("frames", [1, 2, 7, 30])
def test_exactly_the_wanted_number(frames: int) -> None:
    for first in range(frames):
        for count in range(1, frames + 1):
            filled = spread_over_gaps([first], frames, count)
            assert len(set(filled)) == len(filled) == count
            assert first in filled
            assert filled == sorted(filled)
            assert 0 <= filled[0] <= filled[-1] < frames
