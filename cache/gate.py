"""Which frames of a live source are worth the vision tower: near duplicates are skipped, news is measured.

A frame is looked at through a small picture: means over blocks that tile it. One block that changed is
enough, because what a question is about may be no larger.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.cache.ledger import Ledger
from streamprune.checks import check_count, check_number, check_share
from streamprune.errors import InvalidValueError
from streamprune.readers.base import as_rgb_image

Blocks = NDArray[np.float32]

# pixels of a block that are read, in each direction: so many say as much as all of a large picture's
_SAMPLES = 4
# levels of 255 below which a block is too dark to tell how bright the picture is
_DARK = 24.0
# a block moves by so many deviations of its noise before it has changed
_NOISE_DEVIATIONS = 5.0
# from the median of absolute values to the standard deviation of normal noise
_MEDIAN_TO_DEVIATION = 1.4826
# so many mean deviations above the usual make a novelty of 1 - 1/e
_SCALE_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Look:
    """What the gate says of one frame.

    Attributes:
        novelty: 0..1, how much more changed than usually does; a cut is near 1, the first frame is 1.
        duplicate: it shows what the last frame that was none showed.
        event: its novelty reaches ``event_threshold``.
    """

    novelty: float
    duplicate: bool
    event: bool


class FrameGate:
    """Tells near duplicates and news, from the frames up to now alone.

    A frame is compared with the last one that was no duplicate, so that slow drift adds up until it counts.
    Before that the brightness of the two is made equal, as automatic exposure changes it.

    Args:
        duplicate_threshold: largest change of a block, as a share of full scale, in a duplicate; 0 lets only
            exact repetitions be duplicates.
        noise_limit: what sensor noise may raise that threshold to. Noise is told by the median block, which
            does not see what happens in less than half of the picture.
        brightness_jitter: a gain up to this share more or less is not a change; 0 compares as it is.
        event_threshold: novelty from which on a frame is an event, in (0, 1].
        memory_frames: so many frames say what is usual.
        blocks: of the small picture in each direction; a smaller frame has a block a pixel.
        ledger: asked for the bytes that are held, tier "frames".

    Source: pixel gates before the encoder are common practice; numbers here are this project's own, measured
    on frames of 96 x 96 pixels whose smallest objects take 0.6 % of the picture.
    """

    def __init__(
        self,
        *,
        duplicate_threshold: float = 0.04,
        noise_limit: float = 0.08,
        brightness_jitter: float = 0.15,
        event_threshold: float = 0.8,
        memory_frames: int = 64,
        blocks: int = 24,
        ledger: Ledger | None = None,
    ) -> None:
        check_number("duplicate_threshold", duplicate_threshold, 0, 1)
        check_number("noise_limit", noise_limit, 0, 1)
        check_number("brightness_jitter", brightness_jitter, 0, 1)
        check_share("event_threshold", event_threshold)
        check_count("memory_frames", memory_frames, least=2)
        check_count("blocks", blocks)
        if blocks > 256:
            raise InvalidValueError(f"blocks must be at most 256, got {blocks}")
        self.duplicate_threshold = duplicate_threshold
        self.noise_limit = max(noise_limit, duplicate_threshold) if duplicate_threshold else 0.0
        self.brightness_jitter = brightness_jitter if duplicate_threshold else 0.0
        self.event_threshold = event_threshold
        self.blocks = blocks
        self._whole = Usual(memory_frames, least=1.0)
        self._largest = Usual(memory_frames, least=10.0)
        self._ledger = ledger
        self._reference = torch.zeros(blocks, blocks, 3)
        if ledger is not None:
            ledger.hold("frames", self._reference)
        self._size: tuple[int, int] | None = None  # blocks of the last frame that was no duplicate

    def look(self, image: Any) -> Look:
        """Look at the next frame, uint8 RGB (rows, cols, 3); one that is no duplicate is compared with next.

        Raises InvalidTypeError or InvalidValueError for anything else, and has not seen it then.
        """
        seen = block_means(as_rgb_image(image), self.blocks)
        size = (seen.shape[0], seen.shape[1])
        known = self._reference.numpy()[: size[0], : size[1]]
        if size != self._size:
            self._size = size
            known[...] = seen
            return Look(1.0, False, True)
        change = self._change(seen, known)
        largest = float(change.max())
        duplicate = largest <= self._threshold(change)
        novelty = max(self._whole.novelty(float(change.mean())), self._largest.novelty(largest))
        if not duplicate:
            known[...] = seen
        return Look(novelty, duplicate, novelty >= self.event_threshold)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What is held: one small picture."""
        return (self._reference,)

    def reset(self) -> None:
        """Forget every frame."""
        self._size = None
        self._whole.forget()
        self._largest.forget()

    def close(self) -> None:
        """Give back what is held; closing twice is harmless."""
        if self._ledger is not None:
            self._ledger.drop("frames", self._reference)
            self._ledger = None
        self.reset()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, from which :meth:`restore` goes on alike."""
        about = {"size": self._size, "whole": self._whole.state(), "largest": self._largest.state()}
        return {"reference": self._reference.clone()}, about

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over the state of a gate with as many ``blocks``; InvalidValueError from one with others."""
        if tensors["reference"].shape != self._reference.shape:
            raise InvalidValueError(
                f"the saved gate has {len(tensors['reference'])} blocks and this one has "
                f"blocks={self.blocks}; make it with as many"
            )
        self._reference.copy_(tensors["reference"])
        self._size = None if about["size"] is None else (int(about["size"][0]), int(about["size"][1]))
        self._whole.restore(about["whole"])
        self._largest.restore(about["largest"])

    def _change(self, seen: Blocks, known: Blocks) -> Blocks:
        """(blocks, blocks) largest change of a colour in each block, in levels of 255, brightness aside."""
        expected = known
        bright = known > _DARK
        if self.brightness_jitter > 0 and bright.any():
            most = 1 + self.brightness_jitter
            gain = np.clip(np.median(seen[bright] / known[bright]), 1 / most, most)
            expected = np.minimum(known * gain, 255).astype(np.float32)
        change: Blocks = np.abs(seen - expected).max(2)
        return change

    def _threshold(self, change: Blocks) -> float:
        """Levels of 255 up to which a block's change is noise."""
        noise = _NOISE_DEVIATIONS * _MEDIAN_TO_DEVIATION * float(np.median(change))
        return min(max(noise, 255 * self.duplicate_threshold), 255 * self.noise_limit)


class Usual:
    """Mean of a quantity, and its mean deviation, over what was seen so far, the latest counting most.

    Args:
        memory: so many values count.
        least: deviation that is always allowed for, so that stillness does not make the first noise news.
    """

    def __init__(self, memory: int, least: float) -> None:
        self._memory = memory
        self._least = least
        self._seen, self._mean, self._deviation = 0, 0.0, 0.0

    def novelty(self, value: float) -> float:
        """How far ``value`` is above the usual before it, 0..1; it belongs to the usual from then on."""
        scale = _SCALE_DEVIATIONS * max(self._deviation, self._least)
        above = value - self._mean
        self._seen = min(self._seen + 1, self._memory)
        # one cut does not make the next one usual
        taken = min(value, self._mean + 2 * scale) if self._seen > 1 else value
        rate = 1 / self._seen
        self._deviation += rate * (abs(taken - self._mean) - self._deviation) if self._seen > 1 else 0.0
        self._mean += rate * (taken - self._mean)
        return 1 - math.exp(-above / scale) if above > 0 else 0.0

    def forget(self) -> None:
        """Begin anew, with nothing usual."""
        self._seen, self._mean, self._deviation = 0, 0.0, 0.0

    def state(self) -> list[float]:
        """Numbers for :meth:`restore`."""
        return [self._seen, self._mean, self._deviation]

    def restore(self, state: list[float]) -> None:
        """Take over :meth:`state`."""
        seen, self._mean, self._deviation = state
        self._seen = int(seen)


def block_means(image: NDArray[np.uint8], blocks: int) -> Blocks:
    """(blocks, blocks, 3) mean of each of the blocks that tile ``image`` (rows, cols, 3), in levels of 255.

    Of a large block a lattice of pixels is read, which takes the same time for a picture of any size. Where
    there are fewer pixels than blocks in a direction, each pixel is a block.
    """
    rows, cols, _ = image.shape
    down, across = min(blocks, rows), min(blocks, cols)
    high, wide = min(_SAMPLES, rows // down), min(_SAMPLES, cols // across)
    picked = image[_spread(rows, down * high)[:, None], _spread(cols, across * wide)]
    columns = picked.reshape(down, high, across * wide * 3).sum(1, dtype=np.uint16)
    total = columns.reshape(down, across, wide, 3).sum(2, dtype=np.uint32)
    means: Blocks = total.astype(np.float32) / np.float32(high * wide)
    return means


def _spread(length: int, count: int) -> NDArray[np.int64]:
    """``count`` of ``length`` places, each in the middle of its step."""
    return (2 * np.arange(count) + 1) * length // (2 * count)
