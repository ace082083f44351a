"""Cells of a grid pooled two by two, level by level, and how alike what lies in them is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from streamprune.ops.temporal import row_products


@dataclass(frozen=True)
class Level:
    """The cells of one level; level 0 is the grid itself.

    Attributes:
        rows: of cells.
        cols: of cells.
        first: number of its first cell among the cells of all levels.
        parent: (cells,) int64 cell of the next level, counted there; empty on the coarsest.
        ancestor: (grid cells,) int64 cell of this level each grid cell lies in.
        corner: (cells,) int64 lowest grid cell in each cell.
        area: (cells,) int64 grid cells in each cell.
    """

    rows: int
    cols: int
    first: int
    parent: torch.Tensor
    ancestor: torch.Tensor
    corner: torch.Tensor
    area: torch.Tensor

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.rows * self.cols


def quadtree(rows: int, cols: int, skipped: int, device: torch.device) -> list[Level]:
    """Levels of a grid, the grid first.

    Sides are halved, rounded up, until one of them is 2 or less; where a side is odd its first row or column
    of cells stays alone.

    Args:
        skipped: so many of the coarsest levels are left out, but never the grid itself.
    """
    sizes = [(rows, cols)]
    while min(sizes[-1]) > 2:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    sizes = sizes[: max(1, len(sizes) - skipped)]
    levels: list[Level] = []
    first, ancestor = 0, torch.arange(rows * cols, device=device)
    for number, (down, across) in enumerate(sizes):
        parent = ancestor.new_empty(0)
        if number + 1 < len(sizes):
            halved = _halved(down, device)[:, None] * sizes[number + 1][1] + _halved(across, device)
            parent = halved.flatten()
        corner = ancestor.new_full((down * across,), rows * cols)
        corner.scatter_reduce_(0, ancestor, torch.arange(rows * cols, device=device), "amin")
        area = torch.bincount(ancestor, minlength=down * across)
        levels.append(Level(down, across, first, parent, ancestor, corner, area))
        first += down * across
        ancestor = parent[ancestor] if len(parent) else ancestor
    return levels


def cut(levels: list[Level], least: list[torch.Tensor], threshold: float, frames: int) -> torch.Tensor:
    """(frames, cells of all levels) bool: the cells each frame is cut into, from the coarsest level down.

    Args:
        least: for each level but the grid, (frames, cells); a cell stays whole where this reaches the
            ``threshold``.
    """
    device = levels[0].ancestor.device
    looked_at = torch.ones(frames, levels[-1].cells, dtype=torch.bool, device=device)
    whole = []
    for number in range(len(levels) - 1, 0, -1):
        stays = least[number - 1] >= threshold
        whole.append(looked_at & stays)
        looked_at = (looked_at & ~stays)[:, levels[number - 1].parent]
    return torch.cat([looked_at, *reversed(whole)], 1)


def part_shares(levels: list[Level]) -> list[torch.Tensor]:
    """For each level, (grid cells,) the share of each grid cell in its cell when parts count alike."""
    shares = [torch.ones(levels[0].cells, device=levels[0].ancestor.device)]
    for fine, coarse in itertools.pairwise(levels):
        shares.append(shares[-1] / torch.bincount(fine.parent)[coarse.ancestor])
    return shares


def _halved(side: int, device: torch.device) -> torch.Tensor:
    """(side,) the half-sized place each place belongs to; the first stands alone where ``side`` is odd."""
    return (torch.arange(side, device=device) + side % 2) // 2


@dataclass(frozen=True)
class CellSimilarity:
    """Cosines between the pooled contents of cells that contain one another.

    Attributes:
        least: for each level but the grid, (frames, cells): the lowest cosine of a cell with its parts.
        here: (pairs,) int64 cell, among those of all levels.
        there: (pairs,) int64 cell that contains it, equals it or lies in it, in the next frame.
        over_time: (frames - 1, pairs) cosines.
    """

    least: list[torch.Tensor]
    here: torch.Tensor
    there: torch.Tensor
    over_time: torch.Tensor


def cell_similarity(
    frames: torch.Tensor, levels: list[Level], *, sums: bool = False, as_released: bool = False
) -> CellSimilarity:
    """Compare cells of every frame with their parts, and with the next frame's cells around the same place.

    Args:
        frames: (frames, grid cells, channels), any floating dtype; one frame at a time is pooled.
        sums: contents are summed instead of averaged part by part, which differs where parts differ in size.
        as_released: a cell of fewer than four parts is compared with the first cell of their level too, and
            one with a single part is exactly like it, as in the released code of arXiv 2507.07990. False: no
            other cells count, and a cell with a single part is as alike inside as that part.
    """
    nested = _nested(levels)
    least: list[list[torch.Tensor]] = [[] for _ in levels[1:]]
    over_time: list[torch.Tensor] = []
    before: _Frame | None = None
    for frame in frames:
        now = _Frame.of(list(_pooled(frame.float(), levels, sums=sums)), nested)
        inside = torch.full((levels[0].cells,), float("inf"), device=frames.device)
        for number in range(len(levels) - 1):
            inside = _least(levels, number, now, inside, as_released=as_released)
            least[number].append(inside)
        if before is not None:
            over_time.append(torch.cat([_cosine(*pair) for pair in _pairs(before, now)]))
        before = now
    here, there = (torch.cat(side) for side in zip(*_places(levels, nested), strict=True))
    cosines = torch.stack(over_time) if over_time else torch.zeros(0, len(here), device=frames.device)
    return CellSimilarity([torch.stack(level) for level in least], here, there, cosines)


# (finer level, coarser level): the cell of the coarser level around each cell of the finer one
_Nested = dict[tuple[int, int], torch.Tensor]


def _nested(levels: list[Level]) -> _Nested:
    nested = {}
    for fine, level in enumerate(levels):
        around = torch.arange(level.cells, device=level.ancestor.device)
        for coarse in range(fine + 1, len(levels)):
            around = levels[coarse - 1].parent[around]
            nested[fine, coarse] = around
    return nested


@dataclass(frozen=True)
class _Cells:
    """Contents of cells, (cells, channels), and their squared lengths."""

    values: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> _Cells:
        return cls(values, row_products(values, values))

    def at(self, cells: torch.Tensor) -> _Cells:
        return _Cells(self.values.index_select(0, cells), self.squares[cells])


@dataclass(frozen=True)
class _Frame:
    """The cells of one frame by level, and those around the cells of each finer level."""

    cells: list[_Cells]
    around: dict[tuple[int, int], _Cells]

    @classmethod
    def of(cls, cells: list[_Cells], nested: _Nested) -> _Frame:
        return cls(cells, {pair: cells[pair[1]].at(around) for pair, around in nested.items()})


def _pooled(values: torch.Tensor, levels: list[Level], *, sums: bool) -> Iterator[_Cells]:
    yield _Cells.of(values)
    for fine, coarse in itertools.pairwise(levels):
        by_parent = fine.parent.argsort(stable=True)
        count = torch.bincount(fine.parent, minlength=coarse.cells)
        values = torch.nn.functional.embedding_bag(
            by_parent, values, count.cumsum(0) - count, mode="sum" if sums else "mean"
        )
        yield _Cells.of(values)


def _least(
    levels: list[Level], number: int, frame: _Frame, inside: torch.Tensor, *, as_released: bool
) -> torch.Tensor:
    """Lowest cosine of each cell above level ``number`` with a part; ``inside`` is that of the parts."""
    parent, fine, coarse = levels[number].parent, frame.cells[number], frame.cells[number + 1]
    cosine = _cosine(fine, frame.around[number, number + 1])
    least = cosine.new_full((len(coarse.squares),), float("inf"))
    least.scatter_reduce_(0, parent, cosine, "amin")
    parts = torch.bincount(parent)
    if as_released:
        few = (parts < 4).nonzero()[:, 0]
        least[few] = torch.minimum(least[few], _cosine(coarse.at(few), fine.at(torch.zeros_like(few))))
        return least
    part_inside = torch.full_like(least, float("inf")).scatter_reduce(0, parent, inside, "amin")
    return torch.where(parts == 1, part_inside, least)


def _pairs(before: _Frame, now: _Frame) -> Iterator[tuple[_Cells, _Cells]]:
    """The contents of the pairs of :func:`_places`, in the same order."""
    yield from zip(before.cells, now.cells, strict=True)
    for pair in now.around:
        yield before.cells[pair[0]], now.around[pair]
        yield before.around[pair], now.cells[pair[0]]


def _places(levels: list[Level], nested: _Nested) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Which cell of a frame meets which of the next: equal ones, and those that contain one another."""
    own = [torch.arange(level.cells, device=level.ancestor.device) + level.first for level in levels]
    yield from zip(own, own, strict=True)
    for (fine, coarse), around in nested.items():
        outer = around + levels[coarse].first
        yield own[fine], outer
        yield outer, own[fine]


def _cosine(left: _Cells, right: _Cells) -> torch.Tensor:
    # in float64 the root of a squared float32 number is that number: a cell and its copy have exactly 1
    lengths = (left.squares.double() * right.squares.double()).sqrt()
    products = row_products(left.values, right.values)
    return torch.where(lengths > 0, products / lengths, 0.0).float()
