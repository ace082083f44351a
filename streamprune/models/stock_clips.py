"""Videos as one tensor of clips, all of the same length, each one run of placeholders (LLaVA)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.models.stock_inputs import StockInputs, StockVideo, in_turn
from streamprune.tokens import Reduction

if TYPE_CHECKING:
    from streamprune.models.base import VideoFamily


class StockClips(StockInputs):
    """``pixel_values_videos`` of shape (videos, frames, 3, rows, cols).

    Args:
        newline: (channels,) what stands behind every video, with a placeholder of its own; None = nothing.
    """

    def __init__(self, family: VideoFamily, newline: torch.Tensor | None = None) -> None:
        super().__init__(family)
        self._newline = newline

    def placeholders(self, ids: torch.Tensor) -> torch.Tensor:
        """All of each run, but for the newline."""
        video = super().placeholders(ids)
        if self._newline is None:
            return video
        return video & torch.cat([video[1:], video[:1] & False])

    def videos(self, given: Mapping[str, Any]) -> list[StockVideo]:
        """One for every clip."""
        pixels = given.get("pixel_values_videos")
        if pixels is None:
            return []
        size = self.family.transform.size
        if pixels.ndim != 5 or tuple(pixels.shape[3:]) != size:
            raise InvalidValueError(
                f"pixel_values_videos must be (videos, frames, 3, {size[0]}, {size[1]}), got "
                f"{tuple(pixels.shape)}"
            )
        grid, ids = self.family.grid(pixels.shape[1]), given["input_ids"]
        counts = [grid.tokens + (self._newline is not None)] * len(pixels)
        return [
            StockVideo(int(places[0, 0]), places[: grid.tokens, 1], grid, partial(pixels.__getitem__, number))
            for number, places in enumerate(in_turn(ids, ids == self.token_id, counts))
        ]

    def features(
        self, given: Mapping[str, Any], videos: Sequence[StockVideo], left: Sequence[Reduction]
    ) -> dict[str, Any]:
        """(1, rows of all videos, channels)."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        rows = [one.features for one in left]
        if self._newline is not None:
            rows = [torch.cat([part, self._newline.to(part)[None]]) for part in rows]
        joined = torch.cat(rows)[None]
        return {**self.picture_features(given), "video": BaseModelOutputWithPooling(pooler_output=joined)}
