"""Frames of visual tokens at half their size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d

from streamprune.cache.block import FeatureBlock
from streamprune.cache.memory import Room


@dataclass(frozen=True)
class PooledGrid:
    """A grid of ``rows`` x ``cols`` tokens, and the one of half as many a side, odd numbers rounded up."""

    rows: int
    cols: int

    @classmethod
    def of(cls, room: Room) -> PooledGrid:
        """The grid of a stream's frames."""
        cols = room.cols or math.isqrt(room.tokens_per_frame)
        return cls(max(1, room.tokens_per_frame // cols), cols)

    @property
    def tokens(self) -> int:
        """Of the smaller grid."""
        return math.ceil(self.rows / 2) * math.ceil(self.cols / 2)

    def cells(self, device: torch.device) -> torch.Tensor:
        """(tokens,) int32: the cell of the whole grid in the middle of each cell of the smaller one."""
        rows, cols = (_middles(side) for side in (self.rows, self.cols))
        return torch.tensor([row * self.cols + col for row in rows for col in cols], device=device).int()

    def pooled(self, frame: FeatureBlock) -> torch.Tensor:
        """(tokens, width) float32; cells without a token count as the mean of those with one.

        The width is that of the features and of what is carried beside them.
        """
        values = wide(frame)
        dense = values.mean(0).repeat(self.rows * self.cols, 1)
        dense[frame.cells.long()] = values
        picture = dense.T.reshape(1, -1, self.rows, self.cols)
        small = adaptive_avg_pool2d(picture, (math.ceil(self.rows / 2), math.ceil(self.cols / 2)))
        return small.flatten(2)[0].T


def wide(frame: FeatureBlock) -> torch.Tensor:
    """(tokens, width) float32: features, and what is carried beside them."""
    values = frame.features.float()
    return values if frame.carried is None else torch.cat([values, frame.carried.float()], 1)


def narrow(
    values: torch.Tensor, like: FeatureBlock, cells: torch.Tensor, number: int, seconds: float
) -> FeatureBlock:
    """A frame made of ``values`` (tokens, width), of the types of ``like``, in storage of its own."""
    channels = like.features.shape[1]
    carried = None
    if like.carried is not None:
        carried = values[:, channels:].to(like.carried.dtype, copy=True)
    features = values[:, :channels].to(like.features.dtype, copy=True)
    return FeatureBlock(number, seconds, seconds, features, cells, carried)


def _middles(side: int) -> list[int]:
    """For each cell of half a side, the first of the two in its middle."""
    half = math.ceil(side / 2)
    return [(place * side // half + -(-(place + 1) * side // half) - 1) // 2 for place in range(half)]
