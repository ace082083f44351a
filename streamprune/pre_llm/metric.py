"""What tokens of a frame are compared by: the tokens themselves or the tower's keys."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.tokens import VisualTokens

Metric = Literal["features", "keys"]


def needs_of(method: str, metric: Metric) -> tuple[str, ...]:
    """The signals ``metric`` reads, after checking it."""
    if metric not in get_args(Metric):
        raise UnknownNameError.among(f"metric of {method}", metric, get_args(Metric))
    return ("keys",) if metric == "keys" else ()


def compared(tokens: VisualTokens, metric: Metric) -> torch.Tensor:
    """(frames, tokens per frame, channels) of what is compared."""
    if metric == "features":
        return tokens.frames
    grid = tokens.grid
    return tokens.signal("keys", (grid.frames, grid.rows, grid.cols, None)).flatten(1, 2)
