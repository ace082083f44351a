"""How the rows inside a vision tower become the tokens of a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from streamprune.tokens import VideoGrid


@dataclass(frozen=True)
class TokenOrder(ABC):
    """The order of a tower's rows.

    Attributes:
        grid: slices, rows and columns of tokens.
    """

    grid: VideoGrid

    def patches(self, rows: torch.Tensor) -> int:
        """How many of ``rows`` (rows, ...) belong to one token."""
        return len(rows) // self.grid.tokens

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, ...) of the tower to (slices, rows, cols, ...): the mean over the patches of each token."""
        merged = self.grouped(rows).reshape(-1, self.patches(rows), *rows.shape[1:]).float().mean(1)
        return self.in_grid(merged.to(rows.dtype))

    @abstractmethod
    def grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` with the patches of each token one after another."""

    @abstractmethod
    def ungrouped(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` of the grid's tokens, the patches of each one after another, in the tower's order."""

    @abstractmethod
    def in_grid(self, merged: torch.Tensor) -> torch.Tensor:
        """(tokens, ...) in the order of :meth:`grouped` to (slices, rows, cols, ...)."""


@dataclass(frozen=True)
class MergedOrder(TokenOrder):
    """A tower that has the patches of a token side by side.

    Attributes:
        places: (tokens,) where each token of the grid stands among the tower's; None when in order.
    """

    places: torch.Tensor | None = None

    def grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """As they are."""
        return rows

    def ungrouped(self, rows: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        if self.places is None:
            return rows
        split = rows.reshape(self.grid.tokens, -1, *rows.shape[1:])
        return split[torch.argsort(self.places)].flatten(0, 1)

    def in_grid(self, merged: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        ordered = merged if self.places is None else merged[self.places]
        return ordered.reshape(self.grid.frames, self.grid.rows, self.grid.cols, *merged.shape[1:])


@dataclass(frozen=True)
class PictureOrder(TokenOrder):
    """A tower that has the patches of a frame row by row, in any resolution; tokens are squares of them."""

    def grouped(self, rows: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        grid, side = self.grid, round(self.patches(rows) ** 0.5)
        split = rows.reshape(grid.frames * grid.rows, side, grid.cols, side, *rows.shape[1:])
        return split.transpose(1, 2).reshape(rows.shape)

    def ungrouped(self, rows: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        grid, side = self.grid, round(self.patches(rows) ** 0.5)
        split = rows.reshape(grid.frames * grid.rows, grid.cols, side, side, *rows.shape[1:])
        return split.transpose(1, 2).reshape(rows.shape)

    def in_grid(self, merged: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        return merged.reshape(self.grid.frames, self.grid.rows, self.grid.cols, *merged.shape[1:])
