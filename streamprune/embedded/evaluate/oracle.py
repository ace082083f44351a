"""The oracle selection: which tokens to keep when the world itself says where the objects are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

OBJECT_SHARE = 0.7  # of the budget; the rest is spread evenly, since the model expects some background


def _halves(frames: NDArray[np.int64]) -> Iterator[int]:
    """Frames in the order first, last, then the middles of what is left: any prefix is spread out."""
    queue = [(0, len(frames) - 1)]
    yield int(frames[0])
    if len(frames) > 1:
        yield int(frames[-1])
    while queue:
        low, high = queue.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            yield int(frames[middle])
            queue += [(low, middle), (middle, high)]


def _best_first(coverage: NDArray[np.float32]) -> list[int]:
    """Flat token indices of one object (frames, cells): the best of every frame, then the second best."""
    cells = coverage.shape[1]
    seen = np.flatnonzero(coverage.max(1) > 0)
    if not len(seen):
        return []
    order = list(_halves(seen))
    ranked = np.argsort(-coverage, axis=1, kind="stable")
    depth = int((coverage > 0).sum(1).max())
    return [
        f * cells + int(ranked[f, d]) for d in range(depth) for f in order if coverage[f, ranked[f, d]] > 0
    ]


def oracle(coverage: NDArray[np.float32], keep: int) -> NDArray[np.int64]:
    """Return ``keep`` ascending token indices: best covered tokens of each object in turn, rest spread.

    ``coverage`` is (objects, frames, cells). The objects that are seen in the fewest tokens come first.
    """
    total = coverage.shape[1] * coverage.shape[2]
    queues = sorted((_best_first(c) for c in coverage), key=len)
    chosen: dict[int, None] = {}
    quota = max(1, round(OBJECT_SHARE * keep))
    for depth in range(max((len(q) for q in queues), default=0)):
        for queue in queues:
            if depth < len(queue) and len(chosen) < quota:
                chosen[queue[depth]] = None
    free = np.setdiff1d(np.arange(total), list(chosen))
    rest = keep - len(chosen)
    spread = free[np.linspace(0, len(free) - 1, rest).round().astype(int)] if rest > 0 else free[:0]
    return np.sort(np.concatenate([np.array(list(chosen), np.int64), spread]))[:keep]
