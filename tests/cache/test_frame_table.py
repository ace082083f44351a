"""Many frames at once stand where a few, one by one, do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from streamprune.cache.context import GapRule, Gaps, places
from streamprune.cache.frame_table import FrameTable, stood_apart
from tests.cache.made_stream import made_block


@pytest.mark.parametrize("rule", ["keep", "compact", "clipped"])
@pytest.mark.parametrize("max_gap_frames", [0.0, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("axes", [1, 3])
def test_places_are_those_of_single_blocks(rule: Gaps, max_gap_frames: float, axes: int) -> None:
    rng = np.random.default_rng(axes)
    spans = rng.integers(0, 9, (40, axes))
    begins = rng.integers(0, 20, (40, axes)).cumsum(0) + np.concatenate([spans[:1], spans[:-1]]).cumsum(0)
    # on the second and third axis a frame may begin before the one before it ends
    begins[:, 1:] = 5
    gap = GapRule(rule, max_gap_frames)
    found, end = stood_apart(begins, spans, gap)
    theirs, their_end = places([tuple(row) for row in begins], [tuple(row) for row in spans], gap)
    assert found.tolist() == [list(row) for row in theirs]
    assert end.tolist() == list(their_end)
    assert all(after[0] >= before[0] for before, after in pairwise(found))


def test_the_last_frame_stays_whatever_else_does() -> None:
    table = FrameTable.empty(1)
    for number in range(6):
        table = table.with_frame(made_block(number))
    kept = table.keep(np.array([1, 3, 77]))
    assert kept.numbers.tolist() == [1, 3, 5]
    assert kept.seconds.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert kept.begins.tolist() == [[15], [39], [63]]
    assert kept.rows_of(torch.tensor([[5, 1], [3, 3]], dtype=torch.int32)).tolist() == [[2, 0], [1, 1]]
    again = FrameTable.of_tensors(kept.tensors())
    again.lengthen_last(9.0)
    assert again.seconds[-1].tolist() == [5.0, 9.0]
    assert kept.seconds[-1].tolist() == [5.0, 6.0]
