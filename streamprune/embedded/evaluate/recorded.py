"""A stream behind the vision tower, so that many memories can be shown what was computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from streamprune.embedded.world import Stream
from streamprune.models.base import EncodedFrames, VideoFamily

_FRAMES_AT_ONCE = 8


class Recorded:
    """What the tower of ``family`` makes of the first ``frames`` of ``video``.

    Args:
        family: the model.
        video: the stream.
        frames: how many.
        signals: computed on the way, for reducers.
    """

    def __init__(self, family: VideoFamily, video: Stream, frames: int, signals: Sequence[str] = ()) -> None:
        self.number = 0
        self._step = family.frames_per_slice
        self._parts: list[EncodedFrames] = []
        before: torch.Tensor | None = None
        for start in range(0, frames, _FRAMES_AT_ONCE * self._step):
            stop = min(frames, start + _FRAMES_AT_ONCE * self._step)
            pixels = family.preprocess(list(video.frames(start, stop)))
            self._parts += _slices(family.encode(pixels, signals, before=before))
            before = pixels[-self._step]
        # the same model, whose tower plays back what it saw
        self.family = copy.copy(family)
        vars(self.family)["encode"] = self._encode

    def features(self, slices: Sequence[int]) -> torch.Tensor:
        """(slices, rows, cols, channels) of those ``slices``."""
        some = [self._parts[place].features for place in slices]
        return torch.cat([self._parts[0].features[:0], *some])

    def _encode(
        self, pixels: torch.Tensor, signals: Sequence[str] = (), *args: Any, **more: Any
    ) -> EncodedFrames:
        """The slice that frame ``number`` belongs to, whatever ``pixels`` are."""
        found = self._parts[self.number // self._step]
        return EncodedFrames(
            found.features, {name: found.signals[name] for name in signals}, 1.0, found.carried
        )


def _slices(encoded: EncodedFrames) -> list[EncodedFrames]:
    carried = encoded.carried
    return [
        EncodedFrames(
            encoded.features[place : place + 1],
            {name: value[place : place + 1] for name, value in encoded.signals.items()},
            encoded.tower_share,
            None if carried is None else carried[place : place + 1],
        )
        for place in range(len(encoded.features))
    ]
