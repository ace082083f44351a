"""Which frames of a source become part of a stream, and when they were: whatever their clocks say."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import streamprune as sp
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.live_clock import LATE, TOO_SOON, StreamClock
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import Frame

SETTINGS: dict[str, Any] = {"memory": "window", "memory_bytes": 4_000_000}


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture
def live(vlm: VideoLLM) -> Iterator[LiveStream]:
    with vlm.open_stream(**SETTINGS) as opened:
        yield opened


def noise(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def read(clock: StreamClock, *moments: tuple[float | None, str]) -> list[tuple[float, str]]:
    return [(one.seconds, one.refused) for one in (clock.read(*moment) for moment in moments)]


def test_times_that_grow_are_taken_as_they_are() -> None:
    found = read(StreamClock(None), (5.0, ""), (5.04, ""), (900.0, ""))
    assert found == [(5.0, ""), (5.04, ""), (900.0, "")]


def test_missing_times_follow_the_newest() -> None:
    assert read(StreamClock(None), (None, ""), (None, ""), (7.5, ""), (None, "")) == [
        (0.0, ""),
        (1.0, ""),
        (7.5, ""),
        (8.5, ""),
    ]
    assert read(StreamClock(Fraction(4)), (None, ""), (None, "")) == [(0.0, ""), (0.25, "")]


def test_repeats_and_frames_out_of_order_are_refused() -> None:
    clock = StreamClock(None)
    assert read(clock, (3.0, ""), (3.0, ""), (2.2, ""), (3.1, "")) == [
        (3.0, ""),
        (3.0, LATE),
        (2.2, LATE),
        (3.1, ""),
    ]
    assert clock.jumps == 0


def test_a_clock_that_was_set_back_goes_on() -> None:
    clock = StreamClock(Fraction(2))
    assert read(clock, (100.0, ""), (40.0, ""), (40.5, ""), (39.0, ""), (39.5, "")) == [
        (100.0, ""),
        (100.5, ""),
        (101.0, ""),
        (101.5, ""),
        (102.0, ""),
    ]
    assert clock.jumps == 2


def test_a_source_that_begins_anew_goes_on_behind_the_other() -> None:
    clock = StreamClock(None)
    found = read(clock, (8.0, "a 0"), (0.0, "a 1"), (0.5, "a 1"), (30.0, "b 0"), (29.5, "b 0"))
    assert found == [(8.0, ""), (9.0, ""), (9.5, ""), (39.0, ""), (38.5, LATE)]
    assert clock.jumps == 0


def test_a_rate_takes_one_frame_of_each_slot() -> None:
    clock = StreamClock(Fraction(2))
    found = [clock.read(number / 7).refused for number in range(15)]
    assert found == ["" if number in (0, 4, 7, 11, 14) else TOO_SOON for number in range(15)]


def test_a_saved_clock_goes_on() -> None:
    clock, again = StreamClock(Fraction(2)), StreamClock(Fraction(2))
    read(clock, (100.0, "a"), (40.0, "a"))
    again.restore(clock.state())
    assert (again.newest, again.jumps) == (100.5, 1)
    assert read(again, (100.6, "b"), (101.0, "b")) == [(100.6, TOO_SOON), (101.0, "")]


def test_what_is_refused_is_told_and_counted(live: LiveStream) -> None:
    assert live.push(noise(0), 10.0).accepted
    told = [live.push(noise(1), 10.0), live.push(noise(2), 9.5)]
    assert [(one.accepted, one.reason) for one in told] == [(False, LATE)] * 2
    damaged = Frame(noise(3), 11.0, 0, corrupt=True)
    assert live.push(damaged).reason == "damaged"
    assert live.push(noise(4), 2.0).pts_seconds == 11.0
    stats = live.stats()
    assert stats.frames == (5, 2, 3)
    assert stats.reasons == {LATE: 2, "damaged": 1}
    assert (stats.clock_jumps, stats.newest_seconds) == (1, 11.0)
    assert stats.to_dict()["frames"] == {"seen": 5, "accepted": 2, "skipped": 3}


def test_frames_bring_their_times_and_connections(live: LiveStream) -> None:
    frames = [Frame(noise(0), 5.0, 0), Frame(noise(1), 0.1, 1, epoch=1), Frame(noise(2), 0.4, 2, epoch=1)]
    assert [round(live.push(frame).pts_seconds, 3) for frame in frames] == [5.0, 6.0, 6.3]
    assert live.push(frames[0], pts_seconds=70.0).pts_seconds == pytest.approx(75.9)
    assert live.stats().clock_jumps == 0


def test_a_rate_is_kept(vlm: VideoLLM) -> None:
    with vlm.open_stream(**SETTINGS, fps=2) as live:
        told = [live.push(noise(number), number / 8) for number in range(9)]
        assert [one.accepted for one in told] == [number % 4 == 0 for number in range(9)]
        assert live.stats().fps == 2.0
        assert live.push(noise(9)).pts_seconds == 1.5


def test_the_gate_skips_what_has_been_seen(live: LiveStream) -> None:
    told = [live.push(noise(number // 3)) for number in range(9)]
    assert [one.accepted for one in told] == [number % 3 == 0 for number in range(9)]
    assert {one.reason for one in told} == {"", "like the frame before"}
    assert live.stats().tokens_in == 3 * 36
    assert told[0].novelty == 1.0


def test_how_late_frames_are(live: LiveStream) -> None:
    import time

    live.push(Frame(noise(0), 0.0, 0, arrival_seconds=time.monotonic() - 5.0))
    late = live.stats().latency_seconds
    assert late is not None
    assert late >= 5.0
    live.push(noise(1))
    assert live.stats().latency_seconds is None
