"""Pooling against plain loops."""

from __future__ import annotations

import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.pool import Pool
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid


@pytest.mark.parametrize(
    ("grid", "keep_ratio", "layout"),
    [
        ((4, 14, 14), 0.25, (7, 7)),
        ((4, 14, 14), 0.1, (4, 4)),
        ((4, 14, 14), 13.5 / 196, (3, 4)),
        ((4, 6, 6), 0.1, (1, 3)),
        ((4, 6, 6), 0.001, (1, 1)),
        ((4, 2, 30), 0.25, (1, 15)),
        ((4, 1, 9), 0.5, (1, 4)),
        ((4, 9, 1), 0.5, (4, 1)),
        ((4, 7, 5), 0.99, (6, 5)),
    ],
)
def test_the_squarest_layout_within_the_budget(
    grid: tuple[int, int, int], keep_ratio: float, layout: tuple[int, int]
) -> None:
    method = Pool(budget=Budget(keep_ratio=keep_ratio))
    assert method.layout(VideoGrid(*grid)) == layout
    assert method.count(VideoGrid(*grid)) == grid[0] * layout[0] * layout[1]


def test_keep_tokens_is_shared_by_the_frames() -> None:
    assert Pool(budget=Budget(keep_tokens=37)).layout(VideoGrid(4, 14, 14)) == (3, 3)


@pytest.mark.parametrize(("rows", "cols", "keep_ratio"), [(6, 6, 0.25), (7, 5, 0.2), (5, 9, 0.6)])
def test_rows_are_means_of_blocks(rows: int, cols: int, keep_ratio: float) -> None:
    features = torch.randn(3, rows, cols, 4, generator=torch.Generator().manual_seed(1))
    reduction = reduce_tokens(features, "pool", keep_ratio=keep_ratio)
    down, across = Pool(budget=Budget(keep_ratio=keep_ratio)).layout(VideoGrid(3, rows, cols))
    expected, sizes = [], []
    for frame in features:
        for i in range(down):
            for j in range(across):
                block = frame[
                    i * rows // down : (i + 1) * rows // down, j * cols // across : (j + 1) * cols // across
                ]
                expected.append(block.mean((0, 1)))
                sizes.append(block.shape[0] * block.shape[1])
    torch.testing.assert_close(reduction.features, torch.stack(expected))
    assert reduction.size.tolist() == sizes


def test_the_representative_is_nearest_the_block_centre() -> None:
    reduction = reduce_tokens(torch.randn(2, 6, 6, 3), "pool", keep_ratio=0.25)
    # 3 x 3 blocks of 2 x 2: four tokens are equally near, the first is taken
    assert reduction.index.tolist() == [0, 2, 4, 12, 14, 16, 24, 26, 28, 36, 38, 40, 48, 50, 52, 60, 62, 64]
    reduction = reduce_tokens(torch.randn(1, 6, 6, 3), "pool", keep_tokens=4)
    assert reduction.index.tolist() == [7, 10, 25, 28]
