"""Clocks for stages: elapsed time beside the time of work, which other programs disturb less.

Work is processor time of the whole process where torch works on the CPU, and the time between two CUDA events
where it works on a GPU. Elsewhere both are elapsed time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

# shorter than this, what a clock and a scheduler do is a good part of what is measured
RESOLUTION_SECONDS = 0.020


@dataclass(frozen=True)
class Lap:
    """How long something took, in seconds of elapsed time and of work."""

    wall_seconds: float
    work_seconds: float

    def __add__(self, other: Lap) -> Lap:
        return Lap(self.wall_seconds + other.wall_seconds, self.work_seconds + other.work_seconds)


NOTHING = Lap(0.0, 0.0)


@dataclass(frozen=True)
class Mark:
    """A moment: elapsed seconds, and what the clock needs to tell the work from here or to here."""

    wall_seconds: float
    work: Any


class Clock(ABC):
    """Takes marks, and tells what lies between two of them."""

    kind: ClassVar[str]

    @abstractmethod
    def mark(self, *, wait: bool = True) -> Mark:
        """This moment; with ``wait`` once the device has done all it was given."""

    @abstractmethod
    def lap(self, start: Mark, end: Mark) -> Lap:
        """From one mark to a later one."""


class ProcessorClock(Clock):
    """Processor time of the process, all its threads together."""

    kind: ClassVar[str] = "processor time"

    def mark(self, *, wait: bool = True) -> Mark:
        """There is nothing to wait for."""
        return Mark(time.perf_counter(), time.process_time())

    def lap(self, start: Mark, end: Mark) -> Lap:
        """Differences."""
        return Lap(end.wall_seconds - start.wall_seconds, end.work - start.work)


class EventClock(Clock):
    """CUDA events on the current stream of one device.

    Elapsed seconds are those of the program: they tell the truth only between marks that waited.
    """

    kind: ClassVar[str] = "CUDA events"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self, *, wait: bool = True) -> Mark:
        """Record an event; without ``wait`` the device is left to its work."""
        if wait:
            torch.cuda.synchronize(self._device)
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return Mark(time.perf_counter(), event)

    def lap(self, start: Mark, end: Mark) -> Lap:
        """Waits for the later event."""
        end.work.synchronize()
        return Lap(end.wall_seconds - start.wall_seconds, start.work.elapsed_time(end.work) / 1000)


class WallClock(Clock):
    """Elapsed time, on devices that say no more."""

    kind: ClassVar[str] = "elapsed time"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self, *, wait: bool = True) -> Mark:
        """What is not waited for is not seen."""
        if wait and self._device.type == "mps":
            torch.mps.synchronize()
        return Mark(time.perf_counter(), None)

    def lap(self, start: Mark, end: Mark) -> Lap:
        """The difference, twice."""
        seconds = end.wall_seconds - start.wall_seconds
        return Lap(seconds, seconds)


def clock_of(device: torch.device) -> Clock:
    """The clock for what is done on ``device``."""
    if device.type == "cpu":
        return ProcessorClock()
    return EventClock(device) if device.type == "cuda" else WallClock(device)
