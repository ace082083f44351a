"""From pictures to the visual tokens that a stream keeps of them: vision tower and reducer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.cache.ledger import Ledger
from streamprune.encoder.base import TowerMethod
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.inside_tower import encode_inside
from streamprune.models.preprocessing import Clip, Image
from streamprune.models.tower_stream import TowerStream
from streamprune.pipelines.live_reduce import CausalReducer
from streamprune.pipelines.live_states import State, joined, part_of
from streamprune.pipelines.stopwatch import Stopwatch, wait_for


@dataclass(frozen=True, eq=False)
class KeptFrame:
    """What is left of one frame of tokens.

    Attributes:
        start_seconds, stop_seconds: of the first and last picture it was made of.
        features: (kept, channels), in storage of their own.
        cells: (kept,) int64, row * cols + col, ascending.
        carried: (kept, channels') what else the language model gets; None for most families.
        sizes: (kept,) float32, tokens that each stands for; None = one.
        novelty: of the newest picture.
        grid: rows and columns of tokens.
        tower_share: of the tokens, over all layers of the tower, that went through it.
        reused: (tokens,) cells that were not computed again; None when not known.
    """

    start_seconds: float
    stop_seconds: float
    features: torch.Tensor
    cells: torch.Tensor
    carried: torch.Tensor | None
    sizes: torch.Tensor | None
    novelty: float
    grid: tuple[int, int]
    tower_share: float
    reused: NDArray[np.int64] | None

    @property
    def middle_seconds(self) -> float:
        """The time that is written beside it."""
        return (self.start_seconds + self.stop_seconds) / 2

    def told(self) -> dict[str, Any]:
        """Its part of what a push tells."""
        return {
            "tokens_in": self.grid[0] * self.grid[1],
            "tokens_kept": len(self.cells),
            "tower_share": self.tower_share,
            "kept_cells": self.cells.cpu().numpy().astype(np.int64),
            "reused_cells": self.reused,
            "grid": self.grid,
        }


class Tower(Protocol):
    """A vision tower that sees the frames of one stream in order.

    Attributes:
        reused_cells: (rows, cols) of the last frame, the tokens that were not computed again.
    """

    reused_cells: NDArray[np.bool_] | None

    def encode(
        self, pixels: torch.Tensor, signals: Sequence[str] = (), before: torch.Tensor | None = None
    ) -> EncodedFrames:
        """Encode one frame of tokens; see :meth:`VideoFamily.encode`."""
        ...

    def tensors(self) -> Iterator[torch.Tensor]:
        """What is remembered."""
        ...

    def reset(self) -> None:
        """Forget it."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What :meth:`restore` goes on from."""
        ...

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        ...


class PlainTower:
    """The tower of ``family``, with a method inside that remembers nothing from frame to frame, or none."""

    reused_cells: NDArray[np.bool_] | None = None

    def __init__(self, family: VideoFamily, encoder: TowerMethod | None) -> None:
        self._encode = encode_inside(family, encoder)

    def encode(
        self, pixels: torch.Tensor, signals: Sequence[str] = (), before: torch.Tensor | None = None
    ) -> EncodedFrames:
        """As the family does it."""
        return self._encode(pixels, signals, before)

    def tensors(self) -> Iterator[torch.Tensor]:
        """None."""
        return iter(())

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to let go of."""

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Empty."""
        return {}, {}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Nothing to restore."""


class Tokens:
    """Vision tower and reducer of one stream.

    Pictures wait here until there are as many as become one frame of tokens.

    Args:
        family: the model.
        tower: its vision tower.
        reducer: decides what stays of each frame.
        ledger: asked for pictures that wait, tier "frames".
    """

    def __init__(self, family: VideoFamily, tower: Tower, reducer: CausalReducer, ledger: Ledger) -> None:
        self._family, self._tower, self._reducer = family, tower, reducer
        self._needs, self._ledger = reducer.needs, ledger
        self._waiting: list[torch.Tensor] = []
        self._seconds: list[float] = []
        self._before: torch.Tensor | None = None  # picture that the next one is compared with

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""
        yield from self._waiting
        if self._before is not None:
            yield self._before
        yield from self._tower.tensors()
        yield from self._reducer.tensors()

    def take(
        self, image: Image, clip: Clip, seconds: float, novelty: float, watch: Stopwatch
    ) -> KeptFrame | None:
        """What is kept of the frame that ``image`` completes; None while more pictures belong to it."""
        with self._family.lock.first, watch.measure("preprocess"):
            pixels = self._family.preprocess([image], clip)
        self._waiting.append(self._ledger.hold("frames", pixels))
        self._seconds.append(seconds)
        if len(self._waiting) < self._family.frames_per_slice:
            return None
        try:
            with self._family.lock.first, watch.measure("encode"):
                encoded = self._tower.encode(torch.cat(self._waiting), self._needs, self._before)
            if isinstance(self._tower, TowerStream):
                self._tower.updated = ()  # tensors that nobody counts
            first, last = self._seconds[0], self._seconds[-1]
        finally:
            # a frame that fails must not stand in the way of the next one
            self._go_on()
        with watch.measure("reduce"):
            return self._reduce(encoded, (first, last), novelty)

    def reset(self) -> None:
        """Forget every frame."""
        for one in self._waiting:
            self._ledger.drop("frames", one)
        if self._before is not None:
            self._ledger.drop("frames", self._before)
        self._waiting, self._seconds, self._before = [], [], None
        self._tower.reset()
        self._reducer.reset()

    def close(self) -> None:
        """Let go of everything."""
        self.reset()
        self._tower.close()
        self._reducer.close()

    def state(self) -> State:
        """What :meth:`restore` goes on from."""
        pictures = {f"waiting{place}": one for place, one in enumerate(self._waiting)}
        if self._before is not None:
            pictures["before"] = self._before
        own: State = pictures, {"seconds": self._seconds}
        return joined({"own": own, "tower": self._tower.state(), "reducer": self._reducer.state()})

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        self.reset()
        for name, picture in part_of("own", tensors).items():
            held = self._ledger.hold("frames", picture.to(self._family.vision_device(), copy=True))
            if name == "before":
                self._before = held
            else:
                self._waiting.append(held)
        self._seconds = list(about["own"]["seconds"])
        self._tower.restore(part_of("tower", tensors), about["tower"])
        self._reducer.restore(part_of("reducer", tensors), about["reducer"])

    def _go_on(self) -> None:
        """Keep of the pictures that waited what the next one is compared with."""
        if self._before is not None:
            self._ledger.drop("frames", self._before)
        first, *others = self._waiting
        compared = "pixel_change" in self._needs
        self._before = first[0] if compared else None
        for one in others if compared else self._waiting:
            self._ledger.drop("frames", one)
        self._waiting, self._seconds = [], []

    def _reduce(self, encoded: EncodedFrames, times: tuple[float, float], novelty: float) -> KeptFrame:
        kept, reused = self._reducer.reduce(encoded, (times[0] + times[1]) / 2), self._tower.reused_cells
        wait_for(kept.features.device)
        return KeptFrame(
            start_seconds=times[0],
            stop_seconds=times[1],
            # what keeps everything gives a view of what the tower gave
            features=kept.features.clone(),
            cells=kept.index,
            carried=None if kept.carried is None else kept.carried.clone(),
            sizes=kept.sizes,
            novelty=novelty,
            grid=(int(encoded.features.shape[1]), int(encoded.features.shape[2])),
            tower_share=encoded.tower_share,
            reused=None if reused is None else np.flatnonzero(reused),
        )
