"""What a stream tells of itself: of one frame that was pushed, and of all so far."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamprune.cache.memory import TierReport

# of the mean times per stage: how much the newest frame counts
_FRESHNESS = 0.05
# frames over which the rate is counted
_RATE_FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What became of one frame.

    Attributes:
        accepted: it is part of the stream; False says in :attr:`reason` why not.
        reason: empty, or one clause.
        pts_seconds: its time in the stream.
        tokens_in: visual tokens that the tower made of its slice; 0 while the slice is not full.
        tokens_kept: of them, what the memory was given.
        tower_share: share of the tokens, over all layers of the vision tower, that went through it.
        novelty: how unlike the frames before it was, 0..1; 1 without a gate.
        kept_cells: (tokens_kept,) int64, row * cols + col in the grid of the slice; None when not full.
        reused_cells: (tokens,) int64, of those that the tower did not compute again; None when not known.
        grid: rows and columns of tokens of a frame; None when not full.
        ms: milliseconds by stage.
    """

    accepted: bool
    reason: str = ""
    pts_seconds: float = 0.0
    tokens_in: int = 0
    tokens_kept: int = 0
    tower_share: float = 1.0
    novelty: float = 1.0
    kept_cells: NDArray[np.int64] | None = None
    reused_cells: NDArray[np.int64] | None = None
    grid: tuple[int, int] | None = None
    ms: Mapping[str, float] = field(default_factory=dict)


class FrameCounts(NamedTuple):
    """Frames that were pushed, that became part of the stream, and that did not."""

    seen: int
    accepted: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class LiveStats:
    """One moment of a stream.

    Attributes:
        memory_bytes: the budget.
        held: bytes by tier.
        peak_bytes: most bytes at any time.
        frames: seen, accepted and skipped.
        reasons: of the skipped ones, how many for which reason.
        clock_jumps: times that a source's clock went back.
        tokens_in, tokens_kept: visual tokens so far, before and after reduction.
        tower_share: mean over all accepted frames.
        fps: frames a second of the stream's own time, lately.
        ms: mean milliseconds by stage, of frames lately.
        questions: answered.
        latency_seconds: between a frame's arrival and its being remembered, of the last one of a live source;
            None for others.
        newest_seconds: of the newest frame; None before the first.
        remembers_from_seconds: oldest moment that is still represented; None before the first.
        tiers: what each tier holds.
    """

    memory_bytes: int
    held: Mapping[str, int]
    peak_bytes: int
    frames: FrameCounts
    reasons: Mapping[str, int]
    clock_jumps: int
    tokens_in: int
    tokens_kept: int
    tower_share: float
    fps: float
    ms: Mapping[str, float]
    questions: int
    latency_seconds: float | None
    newest_seconds: float | None
    remembers_from_seconds: float | None
    tiers: Mapping[str, TierReport]

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, ready for JSON."""
        return {**dataclasses.asdict(self), "frames": self.frames._asdict()}


class Tally:
    """Counts what happens to a stream; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._share = 0.0
        self._ms: dict[str, float] = {}
        self._times: list[float] = []
        self._latency: float | None = None

    def pushed(self, pushed: Pushed, latency_seconds: float | None = None) -> None:
        """One more frame."""
        with self._lock:
            self._sums["seen"] += 1
            if not pushed.accepted:
                self._reasons[pushed.reason] += 1
                return
            self._sums["accepted"] += 1
            self._times = [*self._times[-_RATE_FRAMES:], pushed.pts_seconds]
            if pushed.tokens_in:
                self._sums["slices"] += 1
                self._share += pushed.tower_share
                self._sums["tokens_in"] += pushed.tokens_in
                self._sums["tokens_kept"] += pushed.tokens_kept
            for stage, ms in pushed.ms.items():
                before = self._ms.get(stage, ms)
                self._ms[stage] = before + _FRESHNESS * (ms - before)
            self._latency = latency_seconds

    def failed(self, reason: str) -> None:
        """One more frame that was not taken because of an error."""
        with self._lock:
            self._sums["seen"] += 1
            self._reasons[reason] += 1

    def answered(self) -> None:
        """One more question."""
        with self._lock:
            self._sums["questions"] += 1

    def read(self) -> dict[str, Any]:
        """The fields of :class:`LiveStats` that are counted here."""
        with self._lock:
            sums, times = self._sums, self._times
            span = times[-1] - times[0] if times else 0.0
            return {
                "frames": FrameCounts(sums["seen"], sums["accepted"], sums["seen"] - sums["accepted"]),
                "reasons": dict(self._reasons),
                "tokens_in": sums["tokens_in"],
                "tokens_kept": sums["tokens_kept"],
                "tower_share": self._share / sums["slices"] if sums["slices"] else 1.0,
                "fps": (len(times) - 1) / span if span > 0 else 0.0,
                "ms": dict(self._ms),
                "questions": sums["questions"],
                "latency_seconds": self._latency,
            }

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        with self._lock:
            return {"sums": dict(self._sums), "reasons": dict(self._reasons), "share": self._share}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting from a saved :meth:`state`."""
        with self._lock:
            self._sums, self._reasons = Counter(state["sums"]), Counter(state["reasons"])
            self._share = float(state["share"])
