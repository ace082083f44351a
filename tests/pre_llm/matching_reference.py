"""Rounds of bipartite matching in float64 numpy, one token at a time, on the features themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def rounds_reference(
    frame: Floats, counts: Sequence[int], *, size: Floats | None = None, equal_shares: bool = False
) -> tuple[list[set[int]], Floats]:
    """The original tokens of each slot, in the order emitted, and the slots' values, for one frame."""
    slots = [{token} for token in range(len(frame))]
    values = [row.astype(np.float64) for row in frame]
    mass = [1.0] * len(frame) if size is None or equal_shares else [float(one) for one in size]
    for count in counts:
        found = []
        for even in range(0, len(slots), 2):
            cosine = [_cosine(values[even], values[odd]) for odd in range(1, len(slots), 2)]
            found.append((max(cosine, default=-np.inf), even, 2 * int(np.argmax(cosine)) + 1))
        found.sort(key=lambda entry: (-entry[0], entry[1]))
        groups: dict[int, list[int]] = {}
        for _, even, _ in found[count:]:
            groups[even] = [even]
        for odd in range(1, len(slots), 2):
            groups[odd] = [odd]
        for _, even, odd in found[:count]:
            groups[odd].append(even)
        means = []
        for group in groups.values():
            total = sum(mass[member] for member in group)
            mean = np.sum([mass[member] * values[member] for member in group], axis=0) / total
            means.append((set().union(*(slots[member] for member in group)), mean, total))
        slots, values = [entry[0] for entry in means], [entry[1] for entry in means]
        mass = [1.0 if equal_shares else entry[2] for entry in means]
    return slots, np.stack(values)


def _cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
