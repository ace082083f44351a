"""Cells of a grid: where they lie, how they are cut, and how alike they are."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.quadtree import cell_similarity, cut, part_shares, quadtree
from streamprune.ops.similarity import unit_rows

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rows", "cols", "skipped", "sizes"),
    [
        (14, 14, 0, [(14, 14), (7, 7), (4, 4), (2, 2)]),
        (14, 14, 1, [(14, 14), (7, 7), (4, 4)]),
        (9, 5, 0, [(9, 5), (5, 3), (3, 2)]),
        (14, 14, 9, [(14, 14)]),
        (1, 5, 0, [(1, 5)]),
        (2, 8, 1, [(2, 8)]),
    ],
)
def test_sides_are_halved_until_one_is_two(
    rows: int, cols: int, skipped: int, sizes: list[tuple[int, int]]
) -> None:
    levels = quadtree(rows, cols, skipped, CPU)
    assert [(level.rows, level.cols) for level in levels] == sizes
    for level in levels:
        assert int(level.area.sum()) == rows * cols
        assert torch.equal(level.ancestor[level.corner], torch.arange(level.cells))


def test_the_first_row_and_column_of_an_odd_side_stay_alone() -> None:
    coarse = quadtree(3, 5, 0, CPU)[1]
    assert coarse.ancestor.reshape(3, 5).tolist() == [[0, 1, 1, 2, 2], [3, 4, 4, 5, 5], [3, 4, 4, 5, 5]]
    assert coarse.corner.tolist() == [0, 1, 3, 5, 6, 8]


def test_shares_follow_the_parts_and_sum_to_one() -> None:
    levels = quadtree(11, 6, 0, CPU)
    for level, share in zip(levels, part_shares(levels), strict=True):
        total = torch.zeros(level.cells).index_add(0, level.ancestor, share)
        torch.testing.assert_close(total, torch.ones(level.cells))
    # the first of three halved rows is alone, so each of its tokens counts more
    shares = part_shares(levels)[2].reshape(11, 6)
    assert float(shares[0, 0]) == 2 * float(shares[1, 0])


def test_cutting_leaves_every_token_in_exactly_one_cell() -> None:
    levels = quadtree(8, 7, 0, CPU)
    frames = torch.randn(3, 56, 4, generator=torch.Generator().manual_seed(0)) + 1
    least = cell_similarity(frames, levels).least
    kept = []
    for threshold in (-2.0, 0.3, 0.7, 2.0):
        whole = cut(levels, least, threshold, 3)
        covered = torch.stack([whole[:, level.first + level.ancestor] for level in levels]).sum(0)
        assert torch.equal(covered, torch.ones(3, 56, dtype=torch.int64))
        kept.append(int(whole.sum()))
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (3 * 4, 3 * 56)


@pytest.mark.parametrize("sums", [False, True])
def test_similarity_of_pooled_cells(sums: bool) -> None:
    levels = quadtree(7, 6, 0, CPU)
    frames = torch.randn(2, 42, 4, generator=torch.Generator().manual_seed(1))
    found = cell_similarity(frames.half(), levels, sums=sums)
    blends = []
    for level, share in zip(levels, part_shares(levels), strict=True):
        blend = torch.zeros(level.cells, 42)
        blend[level.ancestor, torch.arange(42)] = torch.ones(42) if sums else share
        blends.append(blend)
    contents = torch.cat(blends) @ frames.half().float()
    expected = (unit_rows(contents[0])[found.here] * unit_rows(contents[1])[found.there]).sum(-1)
    torch.testing.assert_close(found.over_time[0], expected, atol=1e-5, rtol=0)
    places = list(zip(found.here.tolist(), found.there.tolist(), strict=True))
    assert len(set(places)) == len(places)
    inside = [set(torch.cat(blends)[cell].nonzero()[:, 0].tolist()) for cell in range(len(contents[0]))]
    nested = {
        (a, b)
        for a, one in enumerate(inside)
        for b, other in enumerate(inside)
        if one <= other or other <= one
    }
    assert set(places) == nested
    for number, level in enumerate(levels[1:]):
        for cell in range(level.cells):
            parts = (levels[number].parent == cell).nonzero()[:, 0]
            whole = unit_rows(contents[0, level.first + cell][None])
            cosines = whole @ unit_rows(contents[0, levels[number].first + parts]).T
            assert float(found.least[number][0, cell]) == pytest.approx(float(cosines.min()), abs=1e-5)


def test_a_cell_with_a_single_part() -> None:
    levels = quadtree(7, 7, 0, CPU)
    frames = torch.randn(1, 49, 4, generator=torch.Generator().manual_seed(1))
    released = cell_similarity(frames, levels, as_released=True).least
    assert float(released[0][0, 0]) == 1.0
    ours = cell_similarity(frames, levels).least
    assert float(ours[0][0, 0]) == float("inf")
