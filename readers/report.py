"""What a reader lost on the way: counted while reading, told to the user, never swallowed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields


@dataclass(kw_only=True)
class ReadReport:
    """Counters of one source, growing while it is read.

    Args:
        frames_read: frames handed out.
        packet_errors: compressed packets the decoder refused; their pictures are missing.
        corrupt_frames: pictures the decoder flagged as damaged.
        dropped_frames: damaged pictures left out because of ``corrupt="drop"``.
        estimated_pts: frames without a time, whose time was filled in.
        rescaled_frames: frames of another size than the first, scaled to it.
        missing_end_seconds: how much earlier the pictures end than the container announces.
        repeated_times: asked times at which a frame was shown that was already returned.
        times_past_end: asked times later than the end of the source; they show the last frame.
        approximate_times: asked times that could not be answered with the exact frame because of damage.
    """

    frames_read: int = 0
    packet_errors: int = 0
    corrupt_frames: int = 0
    dropped_frames: int = 0
    estimated_pts: int = 0
    rescaled_frames: int = 0
    missing_end_seconds: float = 0.0
    repeated_times: int = 0
    times_past_end: int = 0
    approximate_times: int = 0
    _seen: set[tuple[str, int]] = field(default_factory=set, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def note(self, counter: str, pts: int | None) -> None:
        """Count one more of something; the same time stamp is counted once, however often it is read."""
        with self._lock:
            if pts is not None and (counter, pts) in self._seen:
                return
            if pts is not None:
                self._seen.add((counter, pts))
            setattr(self, counter, getattr(self, counter) + 1)

    def merge(self, other: ReadReport) -> None:
        """Add another reader's counters (workers that decode in parallel each keep their own)."""
        with self._lock:
            for entry in fields(other):
                if not entry.name.startswith("_") and entry.name != "missing_end_seconds":
                    setattr(self, entry.name, getattr(self, entry.name) + getattr(other, entry.name))
            for counter, _ in self._seen & other._seen:
                setattr(self, counter, getattr(self, counter) - 1)
            self._seen |= other._seen
            self.missing_end_seconds = max(self.missing_end_seconds, other.missing_end_seconds)

    @property
    def damaged(self) -> bool:
        """Whether any picture is missing, damaged, or not the one that was asked for."""
        counts = (self.packet_errors, self.corrupt_frames, self.dropped_frames, self.approximate_times)
        return any(counts) or self.missing_end_seconds > 0

    def lines(self) -> list[str]:
        """Return one sentence for each thing a user should know, the gravest first."""
        sentences = (
            (
                self.missing_end_seconds,
                f"the pictures end {self.missing_end_seconds:.2f} s before the announced end",
            ),
            (self.packet_errors, f"{self.packet_errors} packets could not be decoded and were skipped"),
            (self.dropped_frames, f"{self.dropped_frames} damaged frames were left out"),
            (self.corrupt_frames, f"{self.corrupt_frames} frames are damaged"),
            (
                self.approximate_times,
                f"{self.approximate_times} asked times show an earlier frame because of damage",
            ),
            (
                self.rescaled_frames,
                f"{self.rescaled_frames} frames changed size and were scaled to the first frame's",
            ),
            (self.estimated_pts, f"{self.estimated_pts} frames had no time; it was estimated"),
            (
                self.times_past_end,
                f"{self.times_past_end} asked times lie after the end and show the last frame",
            ),
            (
                self.repeated_times,
                f"{self.repeated_times} asked times show a frame that another one shows too",
            ),
        )
        return [sentence for count, sentence in sentences if count]
