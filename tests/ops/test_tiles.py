"""Blocks that tile a grid."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.tiles import block_layout, tile


@pytest.mark.parametrize(
    ("rows", "cols", "room", "layout"),
    [(14, 14, 49, (7, 7)), (14, 14, 13, (3, 4)), (2, 30, 15, (1, 15)), (1, 9, 4, (1, 4)), (5, 5, 99, (5, 5))],
)
def test_the_squarest_layout_within_the_room(
    rows: int, cols: int, room: int, layout: tuple[int, int]
) -> None:
    assert block_layout(rows, cols, room) == layout


def test_a_side_is_cut_into_runs_with_a_middle() -> None:
    run, middle, size = tile(7, 3, torch.device("cpu"))
    assert run.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert middle.tolist() == [0, 2, 5]
    assert size.tolist() == [2, 2, 3]
