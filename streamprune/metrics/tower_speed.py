"""How long a vision tower takes that remembers the frames before, beside the same tower without."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from streamprune.cache.ledger import Ledger
from streamprune.encoder.stc import STCCacher
from streamprune.metrics.made_stream import SCENES, Scene, made_stream
from streamprune.metrics.units import one_thread, timed
from streamprune.models.base import VideoFamily
from streamprune.models.tower_stream import TowerStream

# enough for what is remembered of any tower that is measured
_ROOM = 2**34
# where every frame costs about the same, one of so many is enough
_SHORT = 4


@dataclass(frozen=True)
class TowerSpeed:
    """One method on one scene.

    Attributes:
        scene: see :func:`made_stream`.
        method: name of the setting.
        frames: shown, references among them.
        tower_share: of the tokens, over all layers, that were recomputed.
        wall_ratio: elapsed time of a frame over that in the plain tower: medians of references and of other
            frames, weighed by how many there are.
        cpu_ratio: the same in processor time of the calling thread, which other programs disturb less.
        plain_milliseconds: of a frame in the plain tower, elapsed, median.
        remembered_bytes: what the method held.
    """

    scene: Scene
    method: str
    frames: int
    tower_share: float
    wall_ratio: float
    cpu_ratio: float
    plain_milliseconds: float
    remembered_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON, flat."""
        return {
            "scene": self.scene,
            "method": self.method,
            "frames": self.frames,
            "tower_share": round(self.tower_share, 4),
            "wall_ratio": round(self.wall_ratio, 4),
            "cpu_ratio": round(self.cpu_ratio, 4),
            "plain_milliseconds": round(self.plain_milliseconds, 1),
            "remembered_bytes": self.remembered_bytes,
        }


def tower_speeds(
    family: VideoFamily,
    methods: Mapping[str, STCCacher],
    *,
    frames: int = 32,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[TowerSpeed]:
    """Time every method on every scene, on one thread.

    The static scene has ``frames`` frames of tokens, the busy one a quarter of them, at least three. Each
    frame goes through both towers, in turn the one or the other first.
    """
    done, total = 0, len(methods) * len(SCENES)
    with one_thread():
        for scene in SCENES:
            shown = frames if scene == "static" else max(3, frames // _SHORT)
            pixels = _prepared(family, scene, shown)
            for name, method in methods.items():
                yield _measure(family, scene, name, method, pixels)
                done += 1
                if progress is not None:
                    progress("bench", done, total)


def _prepared(family: VideoFamily, scene: Scene, frames: int) -> tuple[torch.Tensor, ...]:
    side = family.default_size()[0]
    pictures = made_stream(scene, frames * family.frames_per_slice, side)
    return torch.split(family.preprocess(list(pictures)), family.frames_per_slice)


def _measure(
    family: VideoFamily, scene: Scene, name: str, method: STCCacher, pixels: tuple[torch.Tensor, ...]
) -> TowerSpeed:
    with family.lock:
        warm = TowerStream(family, method, Ledger(_ROOM))
        for frame in pixels[:2]:
            family.encode(frame)
            warm.encode(frame)
        warm.close()
        tower = TowerStream(family, method, Ledger(_ROOM))
        shares: list[float] = []

        def reuse(frame: torch.Tensor) -> None:
            shares.append(tower.encode(frame).tower_share)

        plain, reusing = [], []
        for number, frame in enumerate(pixels):
            if number % 2:
                plain.append(timed(partial(family.encode, frame)))
            reusing.append(timed(partial(reuse, frame)))
            if not number % 2:
                plain.append(timed(partial(family.encode, frame)))
    kinds = [share == 1 for share in shares]
    wall, cpu = (_typical(column, kinds) for column in zip(*reusing, strict=True))
    plain_wall, plain_cpu = (statistics.median(column) for column in zip(*plain, strict=True))
    return TowerSpeed(
        scene=scene,
        method=name,
        frames=len(pixels),
        tower_share=sum(shares) / len(shares),
        wall_ratio=wall / plain_wall,
        cpu_ratio=cpu / plain_cpu,
        plain_milliseconds=1e3 * plain_wall,
        remembered_bytes=tower.nbytes,
    )


def _typical(seconds: Sequence[float], kinds: Sequence[bool]) -> float:
    """Mean over frames of the median of each one's kind."""
    total = 0.0
    for kind in set(kinds):
        of_kind = [one for one, its in zip(seconds, kinds, strict=True) if its == kind]
        total += len(of_kind) * statistics.median(of_kind)
    return total / len(seconds)
