"""How large a picture is shown to a vision tower that takes any size, within a budget of pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.models.preprocessing import Clip

# whose pixels the two bounds are: a frame's, the whole clip's, or the lower one a frame's and the upper one
# the clip's, of which all its frames have equal parts
PixelsOf = Literal["frame", "clip", "shared"]

# longer side over shorter side
_MAX_ASPECT = 200


class SizeRule(Protocol):
    """Says how large the frames of a clip are shown."""

    def size(self, clip: Clip) -> tuple[int, int]:
        """(rows, cols) in pixels."""


@dataclass(frozen=True)
class PixelArea:
    """The size rule of MiniCPM-V for a picture that is not cut into slices: about one area for all shapes.

    Args:
        side: pixels along a square of that area.
        token_side: pixels along one token; both sides become multiples of it, one at least.
    """

    side: int
    token_side: int

    def size(self, clip: Clip) -> tuple[int, int]:
        """(rows, cols) in pixels, in the picture's shape as near as whole tokens allow."""
        aspect = clip.cols / clip.rows
        rows = int(self.side / math.sqrt(aspect))
        cols = int(rows * aspect)
        # rounded as Python does, halves to even, as the stock processor does
        high, wide = (max(1, round(length / self.token_side)) for length in (rows, cols))
        return high * self.token_side, wide * self.token_side


@dataclass(frozen=True, kw_only=True)
class PixelBudget:
    """The size rule of the stock Qwen video processors: the picture's shape, whole tokens, bounded pixels.

    Args:
        min_pixels: fewest pixels.
        max_pixels: most pixels.
        token_side: pixels along one token; both sides become multiples of it.
        slice_frames: frames of one temporal slice.
        pixels_of: whose.
        share_tokens: None, or how many tokens bound the frames further: those of the whole clip share 90 % of
            them; where the pixels are the clip's, each frame has at most so many.
    """

    min_pixels: int
    max_pixels: int
    token_side: int
    slice_frames: int
    pixels_of: PixelsOf = "frame"
    share_tokens: int | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Mapping[str, Any],
        *,
        token_side: int,
        slice_frames: int,
        defaults: tuple[int, int, int],
        pixels_of: PixelsOf = "frame",
    ) -> PixelBudget:
        """Read a stock settings file's content.

        Args:
            defaults: what the stock processor takes where the settings are silent: tokens' worth of pixels at
                least, at most, and ``max_video_tokens``.
        """
        size = settings.get("size") or {}
        if not isinstance(size, Mapping) or {"height", "width"} & set(size):
            raise UnsupportedModelError(
                f"the video processor's settings give size={size!r}; "
                "{'shortest_edge': ..., 'longest_edge': ...}, in pixels of a whole picture, is supported"
            )
        least, most, share = defaults
        area = token_side * token_side
        low = settings.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
        high = settings.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
        capped = settings.get("cap_pixels_per_frame")
        return cls(
            min_pixels=int(low or least * area),
            max_pixels=int(high or most * area),
            token_side=token_side,
            slice_frames=slice_frames,
            pixels_of=pixels_of,
            share_tokens=int(settings.get("max_video_tokens") or share) if capped else None,
        )

    def size(self, clip: Clip) -> tuple[int, int]:
        """(rows, cols) in pixels for the frames of ``clip``; InvalidValueError for a strip of a picture."""
        frames, rows, cols, side = clip.frames, clip.rows, clip.cols, self.token_side
        whole_clip = self.pixels_of == "clip"
        if whole_clip:
            # a lone frame is shown twice
            frames = max(frames, self.slice_frames)
            if min(rows, cols) < side:
                scale = max(side / rows, side / cols)
                rows, cols = int(rows * scale), int(cols * scale)
        if max(rows, cols) > _MAX_ASPECT * min(rows, cols):
            raise InvalidValueError(
                f"a picture of {clip.rows} x {clip.cols} pixels is more than {_MAX_ASPECT} times longer than "
                "wide, which this model cannot take; crop it first"
            )
        counted = frames if whole_clip else 1
        # rounded as Python does, halves to even, as the stock processors do
        high, wide = round(rows / side) * side, round(cols / side) * side
        slices = round(frames / self.slice_frames) * self.slice_frames if whole_clip else 1
        most = self._most(clip.frames)
        if slices * high * wide > most:
            shrink = math.sqrt(counted * rows * cols / most)
            high, wide = (max(side, math.floor(n / shrink / side) * side) for n in (rows, cols))
        elif slices * high * wide < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (counted * rows * cols))
            high, wide = (math.ceil(n * grow / side) * side for n in (rows, cols))
        return high, wide

    def _most(self, frames: int) -> int:
        if self.pixels_of == "shared":
            return self.max_pixels // frames
        if self.share_tokens is None:
            return self.max_pixels
        area, floor = self.token_side * self.token_side, int(self.min_pixels * 1.05)
        if self.pixels_of == "clip":
            return max(min(self.share_tokens * area, self.max_pixels // frames), floor) * frames
        shared = int(self.share_tokens * area * 0.9) * self.slice_frames // frames
        return max(min(self.max_pixels, shared), floor)


def patch_rows(pixels: torch.Tensor, *, slice_frames: int, patch: int, merge: int) -> torch.Tensor:
    """Cut prepared frames into the rows that a Qwen vision tower reads.

    Args:
        pixels: (frames, 3, rows, cols) tensor; a last slice that is not full repeats its last frame.
        slice_frames: frames of one temporal slice.
        patch: pixels along a patch.
        merge: patches along a token.

    Returns:
        (slices * patches, 3 * slice_frames * patch * patch), the patches of a token one after another.
    """
    missing = -len(pixels) % slice_frames
    if missing:
        pixels = pixels[[*range(len(pixels)), *[len(pixels) - 1] * missing]]
    frames, colours, rows, cols = pixels.shape
    side = merge * patch
    cut = pixels.reshape(
        frames // slice_frames, slice_frames, colours, rows // side, merge, patch, cols // side, merge, patch
    )
    # slice, token row, token col, patch row, patch col | colour, frame, row, col
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, colours * slice_frames * patch * patch)
