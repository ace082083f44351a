"""Rotary position embedding of queries and keys, from the tables a model has made already."""

from __future__ import annotations

import torch


def rotate(rows: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn ``rows`` (..., width) by the angles whose cosines and sines are given, one for each channel.

    Channel n is paired with channel n + width / 2, as in the models of the Llama kind.
    """
    first, second = rows.chunk(2, -1)
    return rows * cos + torch.cat([-second, first], -1) * sin
