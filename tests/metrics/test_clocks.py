"""Clocks: what they read, and in which order a GPU is asked."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from streamprune.metrics.clocks import EventClock, Lap, ProcessorClock, WallClock, clock_of


def test_processor_time_is_told_apart_from_elapsed_time() -> None:
    clock = ProcessorClock()
    start = clock.mark()
    time.sleep(0.05)
    lap = clock.lap(start, clock.mark())
    assert lap.wall_seconds >= 0.05
    assert lap.work_seconds < lap.wall_seconds


def test_laps_add_up() -> None:
    assert Lap(1.0, 0.5) + Lap(2.0, 1.5) == Lap(3.0, 2.0)


def test_every_device_has_its_clock() -> None:
    assert isinstance(clock_of(torch.device("cpu")), ProcessorClock)
    assert isinstance(clock_of(torch.device("cuda")), EventClock)
    assert isinstance(clock_of(torch.device("mps")), WallClock)


class _Event:
    """Stands in for ``torch.cuda.Event``: knows when it was recorded, in milliseconds."""

    def __init__(self, said: list[str], enable_timing: bool) -> None:
        assert enable_timing
        self.said, self.at = said, 0.0

    def record(self, stream: Any) -> None:
        self.at = 10.0 * len(self.said)
        self.said.append(f"record on {stream}")

    def synchronize(self) -> None:
        self.said.append("wait for event")

    def elapsed_time(self, end: _Event) -> float:
        assert self.said[-1] == "wait for event"
        return end.at - self.at


def test_events_lie_between_what_was_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    device = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda of: said.append(f"wait for {of}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda of: f"stream of {of}")
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: _Event(said, enable_timing))
    clock = EventClock(device)
    start, inside, end = clock.mark(), clock.mark(wait=False), clock.mark()
    recorded = "record on stream of cuda:1"
    # a mark inside a model leaves the device to its work
    assert said == ["wait for cuda:1", recorded, recorded, "wait for cuda:1", recorded]
    assert clock.lap(start, end).work_seconds == pytest.approx((40 - 10) / 1000)
    assert clock.lap(start, inside).work_seconds == pytest.approx((20 - 10) / 1000)
