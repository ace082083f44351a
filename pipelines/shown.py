"""What a vision tower is shown of one video, kept on request to be shown once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.encoder.base import TowerMethod
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.devices import out_of_memory_explained
from streamprune.models.inside_tower import encode_inside
from streamprune.models.preprocessing import Clip, Image
from streamprune.pipelines.stopwatch import Stopwatch


class ShownFrames:
    """Consecutive frames on their way through the tower, a batch at a time.

    Args:
        family: whose tower.
        encoder: the method that works inside it.
        watch: takes the times of ``preprocess`` and ``encode``.
        keep: hold the frames for :meth:`show_again`, at the size of the tower's input and in main memory:
            3 bytes a pixel, for 384 x 384 pixels 0.4 MB a frame.
    """

    def __init__(
        self, family: VideoFamily, encoder: TowerMethod | None, watch: Stopwatch, *, keep: bool = False
    ) -> None:
        self._family = family
        self._encoder, self._encode = encoder, encode_inside(family, encoder)
        self._watch = watch
        self._kept: list[NDArray[np.uint8]] | None = [] if keep else None
        self._last: torch.Tensor | None = None
        self.clip: Clip | None = None

    def announce(self, clip: Clip) -> None:
        """Say which video the frames are of: in what size they are shown may depend on it."""
        self.clip = clip

    def whole_slices(self, frames: int) -> int:
        """So many ``frames`` or fewer, but whole slices of the family's, at least one."""
        step = self._family.frames_per_slice
        return max(step, frames - frames % step)

    def show(self, images: Sequence[Image], signals: Sequence[str]) -> EncodedFrames:
        """Preprocess and encode the next ``images``, with the named ``signals``."""
        family = self._family
        with out_of_memory_explained(f"encoding {len(images)} frames at once"), family.lock:
            with self._watch.measure("preprocess"):
                pixels = family.preprocess(images, self.clip)
            with self._watch.measure("encode"):
                encoded = self._encode(pixels, signals, self._last)
        # of several frames in a slice the first: what the next slice is compared with
        self._last = pixels[(len(pixels) - 1) // family.frames_per_slice * family.frames_per_slice]
        if self._kept is not None:
            self._kept.append(np.stack(list(family.transform.levels(pixels))))
        return encoded

    def show_again(self, names: Sequence[str]) -> tuple[Mapping[str, torch.Tensor], float]:
        """Run the tower over the kept frames for the signals ``names``; also returns the milliseconds."""
        watch = Stopwatch(self._watch.device)
        again = ShownFrames(self._family, self._encoder, watch)
        if self.clip is not None:
            again.announce(self.clip)
        parts = [again.show(list(batch), names) for batch in self._kept or ()]
        return EncodedFrames.join(parts).signals, sum(watch.ms.values())
