"""Which of the frames found are brought back: the best, not all from the same moment."""

from __future__ import annotations

from collections.abc import Collection

import torch

from streamprune.cache.page_index import Found


def chosen_rows(
    found: Found,
    count: int,
    *,
    without: Collection[int] = (),
    recency: float = 0.0,
    suppress_frames: int = 0,
    expand: int = 0,
) -> list[int]:
    """Rows of at most ``count`` frames, the best first; the older one of two that are equal.

    Args:
        found: every frame, in the order of the stream.
        without: rows that are not wanted.
        recency: added to the score of the newest frame, falling to 0 towards the oldest.
        suppress_frames: frames of the stream around a chosen one come after all others.
        expand: frames in ``found`` before and after each chosen one that come with it.
    """
    total = len(found.rows)
    if not total:
        return []
    # few and small: on the processor there is nothing to wait for
    rows, numbers = found.rows.cpu(), found.numbers.cpu()
    scores = found.scores.cpu() + recency * torch.linspace(0, 1, total)
    open_ = ~torch.isin(rows, torch.tensor(sorted(without), dtype=rows.dtype))
    chosen: list[int] = []
    while len(chosen) < count and bool(open_.any()):
        free = open_.clone()
        while len(chosen) < count and bool(free.any()):
            best = int(torch.where(free, scores, -torch.inf).argmax())
            near = range(max(0, best - expand), min(total, best + expand + 1))
            fresh = [best, *(place for place in near if place != best and open_[place])]
            chosen += fresh[: count - len(chosen)]
            open_[fresh] = False
            free &= open_ & ((numbers - numbers[best]).abs() > suppress_frames)
    return [int(rows[place]) for place in chosen]
