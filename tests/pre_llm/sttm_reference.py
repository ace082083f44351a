"""STTM in float64 numpy, one cell at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass
class Cell:
    """A cell of one frame: where it lies (rows and columns, half open) and what it holds."""

    frame: int
    box: tuple[int, int, int, int]
    value: Floats

    @property
    def area(self) -> int:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    def contains(self, other: Cell) -> bool:
        a, b = self.box, other.box
        return a[0] <= b[0] and a[1] <= b[1] and a[2] >= b[2] and a[3] >= b[3]


def _starts(side: int) -> list[list[int]]:
    """Places that come together when a side is halved."""
    odd = [[0]] if side % 2 else []
    return odd + [[i, i + 1] for i in range(side % 2, side, 2)]


def _cosine(a: Floats, b: Floats) -> float:
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 if a is b else (float(a @ b) / length if length else 0.0)


def cells_of(
    frame: Floats, number: int, tau: float, root_level: int, *, sums: bool, released: bool
) -> list[Cell]:
    """The cells of one frame (rows, cols, channels), by their first grid cell."""
    rows, cols, _ = frame.shape
    level: dict[tuple[int, int], tuple[Cell, list[tuple[int, int]]]] = {
        (y, x): (Cell(number, (y, x, y + 1, x + 1), frame[y, x]), [])
        for y in range(rows)
        for x in range(cols)
    }
    levels, sizes = [level], [(rows, cols)]
    while min(sizes[-1]) > 2:
        rows, cols = sizes[-1]
        above = {}
        for i, ys in enumerate(_starts(rows)):
            for j, xs in enumerate(_starts(cols)):
                keys = [(y, x) for y in ys for x in xs]
                parts = [levels[-1][key][0] for key in keys]
                total = np.sum([part.value for part in parts], axis=0)
                value = parts[0].value if len(parts) == 1 else total if sums else total / len(parts)
                box = (parts[0].box[0], parts[0].box[1], parts[-1].box[2], parts[-1].box[3])
                above[i, j] = (Cell(number, box, value), keys)
        levels.append(above)
        sizes.append((len(_starts(rows)), len(_starts(cols))))
    levels = levels[: max(1, len(levels) - root_level)]
    found: list[Cell] = []

    def visit(depth: int, key: tuple[int, int]) -> None:
        cell, keys = levels[depth][key]
        compared = [levels[depth - 1][part][0].value for part in keys]
        if released and 0 < len(keys) < 4:
            compared.append(levels[depth - 1][0, 0][0].value)
        single = len(keys) == 1 and not released
        if depth == 0 or (not single and all(_cosine(cell.value, value) >= tau for value in compared)):
            found.append(cell)
            return
        for part in keys:
            visit(depth - 1, part)

    for key in levels[-1]:
        visit(len(levels) - 1, key)
    return sorted(found, key=lambda cell: cell.box[:2])


def sttm_reference(
    video: Floats,
    spatial: float,
    temporal: float | None,
    *,
    root_level: int = 1,
    by_area: bool = False,
    released: bool = True,
) -> dict[int, Floats]:
    """Flat index of each output token and its value, for a video (frames, rows, cols, channels)."""
    frames, rows, cols, _ = video.shape
    cells = [
        cell
        for number in range(frames)
        for cell in cells_of(video[number], number, spatial, root_level, sums=by_area, released=released)
    ]
    pairs = [
        (a, b)
        for a, one in enumerate(cells)
        for b, other in enumerate(cells)
        if temporal is not None
        and other.frame == one.frame + 1
        and (one.contains(other) or other.contains(one))
        and _cosine(one.value, other.value) >= temporal
    ]
    label = _released_labels(pairs, len(cells)) if released else _flood(pairs, len(cells))
    output = {}
    for lead in sorted(set(label)):
        members = [cell for cell, own in zip(cells, label, strict=True) if own == lead]
        count = sum(cell.area for cell in members) if by_area else len(members)
        total = np.sum([cell.value for cell in members], axis=0)
        place = cells[lead].frame * rows * cols + cells[lead].box[0] * cols + cells[lead].box[1]
        output[place] = total / count
    return output


def _released_labels(pairs: list[tuple[int, int]], nodes: int) -> list[int]:
    label = list(range(nodes))
    while True:
        seen = list(label)
        for a, b in pairs:
            least = min(seen[a], seen[b])
            label[a], label[b] = min(label[a], least), min(label[b], least)
        label = [label[lead] for lead in label]
        if label == [label[lead] for lead in label]:
            return label


def _flood(pairs: list[tuple[int, int]], nodes: int) -> list[int]:
    label = list(range(nodes))
    for a, b in pairs * nodes:
        label[a] = label[b] = min(label[a], label[b])
    return label
