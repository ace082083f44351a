"""How long pre-LLM methods take on a clip of the size a 7B model gives, in units of one copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from streamprune.metrics.made_clip import UNIT_SHAPE, made_clip
from streamprune.metrics.released import RELEASED_UNITS
from streamprune.metrics.units import UnitTiming, time_in_units
from streamprune.reduce import reduce_tokens
from streamprune.registry import get_method

# signals are read from this many alike runs among the frames; more runs = less that repeats
SCENES = (8, 32)


@dataclass(frozen=True)
class ReducerSpeed:
    """One method on one clip.

    Attributes:
        method: its name.
        keep_ratio: share asked for.
        scenes: alike runs among the frames.
        kept_tokens: what it kept, which for some methods cannot be what was asked.
        total_tokens: of the clip.
        timing: medians.
        released_units: what the released code takes, None where it was not measured.
    """

    method: str
    keep_ratio: float
    scenes: int
    kept_tokens: int
    total_tokens: int
    timing: UnitTiming
    released_units: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, flat."""
        return {
            "method": self.method,
            "keep_ratio": self.keep_ratio,
            "scenes": self.scenes,
            "kept_tokens": self.kept_tokens,
            "kept_ratio": round(self.kept_tokens / self.total_tokens, 4),
            "wall_units": round(self.timing.wall_units, 3),
            "cpu_units": round(self.timing.cpu_units, 3),
            "wall_milliseconds": round(self.timing.wall_milliseconds, 1),
            "unit_milliseconds": round(self.timing.unit_milliseconds, 1),
            "released_units": self.released_units,
        }


def reducer_speeds(
    methods: Sequence[str],
    *,
    keep_ratio: float = 0.1,
    scenes: Sequence[int] = SCENES,
    repeats: int = 9,
    shape: tuple[int, int, int, int] = UNIT_SHAPE,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[ReducerSpeed]:
    """Time each of ``methods`` on clips of ``shape`` with so many ``scenes``, on one thread.

    Raises UnknownNameError before anything is timed when a method does not exist.
    """
    for name in methods:
        get_method("pre_llm", name)
    done, total = 0, len(methods) * len(scenes)
    for runs in scenes:
        features, signals = made_clip(runs, shape=shape)
        for name in methods:
            needs = get_method("pre_llm", name).needs
            given = {signal: signals[signal] for signal in needs}  # made before the clock runs
            call = partial(reduce_tokens, features, name, keep_ratio=keep_ratio, signals=given)
            kept = len(call())
            timing = time_in_units(call, features, repeats)
            done += 1
            if progress is not None:
                progress("bench", done, total)
            tokens = shape[0] * shape[1] * shape[2]
            yield ReducerSpeed(name, keep_ratio, runs, kept, tokens, timing, RELEASED_UNITS.get(name))
