"""Families whose vision tower can compute some patches of a frame without the others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from streamprune.models.pixel_signals import Patches


class TowerPatches(ABC):
    """How the pictures of one frame of tokens fall into the patches of the tower.

    Class attributes:
        runs_in_parts: False takes the promise back.
    """

    runs_in_parts: ClassVar[bool] = True

    @abstractmethod
    def tower_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """(patches, values) colours of one frame of tokens, in the order in which its tower has the patches.

        Args:
            pixels: (frames, 3, rows, cols) prepared, of as many frames as become one frame of tokens.

        Returns:
            float32 in [0, 1] but for a constant that is the same in every picture.
        """

    @abstractmethod
    def cells_of_patches(self, marks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(rows, cols) bool: the tokens that read any of the marked patches of a frame.

        Args:
            marks: (patches,) bool, in the order of :meth:`tower_patches`.
            size: (rows, cols) of the pixels.
        """


class PooledPatches(TowerPatches):
    """Patches row by row, pooled to tokens."""

    @property
    @abstractmethod
    def _cut(self) -> Patches:
        """How pictures fall into patches."""

    @abstractmethod
    def _pool(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, patches, channels) to (frames, rows, cols, channels)."""

    def tower_patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the base class."""
        return self._cut.cut(pixels)

    def cells_of_patches(self, marks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """See the base class."""
        return self._pool(marks.float()[None, :, None])[0, ..., 0] > 0
