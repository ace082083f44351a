"""What became of a picture, cell by cell, as a page can draw it."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamprune.pipelines.live_stats import Pushed

_KEPT, _REUSED = 1, 2


def seen(number: int, pushed: Pushed) -> dict[str, Any]:
    """The message about picture ``number``; see :func:`cells` for how its patches are told."""
    return {
        "type": "seen",
        "number": number,
        "accepted": pushed.accepted,
        "reason": pushed.reason,
        "seconds": pushed.pts_seconds,
        "tokens_in": pushed.tokens_in,
        "tokens_kept": pushed.tokens_kept,
        "tower_share": pushed.tower_share,
        "novelty": pushed.novelty,
        "grid": pushed.grid,
        "cells": cells(pushed),
        "ms": sum(pushed.ms.values()),
    }


def cells(pushed: Pushed) -> str | None:
    """One digit a cell, row by row: 1 kept, 2 reused from an earlier picture, 3 both, 0 neither."""
    if pushed.grid is None:
        return None
    rows, cols = pushed.grid
    flags = np.zeros(rows * cols, np.uint8)
    if pushed.kept_cells is not None:
        # text between the rows of a picture has the cell -1
        flags[pushed.kept_cells[pushed.kept_cells >= 0]] |= _KEPT
    if pushed.reused_cells is not None:
        flags[pushed.reused_cells] |= _REUSED
    return (flags + ord("0")).tobytes().decode("ascii")
