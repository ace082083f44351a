"""Signals of the pictures themselves, measured on the pixels that a vision tower is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from streamprune.models.preprocessing import FrameTransform
from streamprune.ops.pixels import patch_change
from streamprune.tokens import VideoGrid

PIXEL_SIGNALS = ("pixel_change", "pixel_entropy")

# weights of red, green and blue in a grey picture (ITU-R BT.601)
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Patches:
    """How normalised pixels fall into patches.

    Attributes:
        rows, cols: patches of a frame; pixels beyond them at the right and lower edge belong to none.
        side: pixels along a patch.
        transform: what normalised the pixels.
    """

    rows: int
    cols: int
    side: int
    transform: FrameTransform

    def signals(
        self,
        names: Sequence[str],
        pixels: torch.Tensor,
        before: torch.Tensor | None,
        pool: Callable[[torch.Tensor], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Those of ``names`` that are among PIXEL_SIGNALS, (frames, rows, cols).

        Args:
            pool: pools (frames, patches, channels) to (frames, rows, cols, channels).
        """
        found = {}
        if "pixel_change" in names:
            found["pixel_change"] = pool(self.change(pixels, before)[..., None])[..., 0]
        if "pixel_entropy" in names:
            found["pixel_entropy"] = pool(self.entropy(pixels)[..., None])[..., 0]
        return found

    def change(self, pixels: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
        """Mean absolute colour difference of each patch from the same patch of the frame before.

        Args:
            pixels: (frames, 3, rows, cols) normalised.
            before: (3, rows, cols) the frame before the first; None when there is none.

        Returns:
            (frames, patches) float32 in [0, 1]; 0 for a first frame that has none before it.
        """
        shown = pixels if before is None else torch.cat([before[None].to(pixels), pixels])
        grid = VideoGrid(len(shown), self.rows, self.cols)
        rows = self._split(shown).permute(0, 2, 4, 1, 3, 5).reshape(grid.tokens, -1)
        change = patch_change(rows, grid, std=self.transform.std, rows_per_token=1, slices=1).flatten(1)
        return change if before is None else change[1:]

    def entropy(self, pixels: torch.Tensor) -> torch.Tensor:
        """(frames, patches) float32 entropy, in nats, of the 256 grey levels in each patch."""
        mean, std, grey = (
            torch.tensor(values, device=pixels.device).view(3, 1, 1)
            for values in (self.transform.mean, self.transform.std, _GREY)
        )
        levels = (255 * ((pixels.float() * std + mean) * grey).sum(1, keepdim=True)).round().clamp(0, 255)
        rows = self._split(levels).permute(0, 2, 4, 1, 3, 5).reshape(-1, self.side * self.side).long()
        counts = torch.zeros(len(rows), 256, device=pixels.device)
        counts.scatter_add_(1, rows, torch.ones_like(rows, dtype=counts.dtype))
        share = counts / (self.side * self.side)
        return -torch.xlogy(share, share).sum(1).reshape(len(pixels), -1)

    def cut(self, pixels: torch.Tensor) -> torch.Tensor:
        """(frames * patches, values) colours of each patch, see :func:`in_colours`."""
        split = self._split(in_colours(pixels, self.transform)).permute(0, 2, 4, 1, 3, 5)
        return split.reshape(len(pixels) * self.rows * self.cols, -1)

    def _split(self, pixels: torch.Tensor) -> torch.Tensor:
        """(frames, colours, rows, side, cols, side) view."""
        inside = pixels[:, :, : self.rows * self.side, : self.cols * self.side]
        return inside.reshape(*pixels.shape[:2], self.rows, self.side, self.cols, self.side)


def in_colours(pixels: torch.Tensor, transform: FrameTransform) -> torch.Tensor:
    """(frames, 3, rows, cols) float32 normalised ``pixels`` as colours in [0, 1], less their mean."""
    std = torch.tensor(list(transform.std), device=pixels.device)
    return pixels.float() * std[:, None, None]
