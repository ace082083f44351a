"""The parts of a live source: times that never go back, queues that lose what they should, names, health."""

from __future__ import annotations

import logging
import sys
import threading

import pytest

from streamprune.errors import InvalidValueError, SourceNotFoundError, UnknownNameError
from streamprune.readers.address import read_address
from streamprune.readers.base import Frame
from streamprune.readers.credentials import hide_in_ffmpeg_logs, redacted
from streamprune.readers.health import Pulse
from streamprune.readers.live_clock import LiveClock
from streamprune.readers.live_options import DropPolicy, LiveOptions
from streamprune.readers.waiting import Waiting
from tests.readers.media import picture


def _times(clock: LiveClock, *arrivals: tuple[float | None, float]) -> list[tuple[float, bool]]:
    return [(round(s, 3), e) for s, e in (clock.seconds(pts, arrival) for pts, arrival in arrivals)]


def test_times_count_from_the_first_frame_on_its_own_clock() -> None:
    found = _times(LiveClock(), (700.0, 50.0), (700.04, 50.2), (700.08, 50.21))
    assert found == [(0.0, False), (0.04, False), (0.08, False)]


def test_another_connection_goes_on_where_the_time_here_is() -> None:
    clock = LiveClock()
    _times(clock, (5.0, 50.0), (6.0, 51.0))
    clock.begin()
    assert _times(clock, (0.0, 58.0), (0.5, 58.5)) == [(8.0, False), (8.5, False)]


@pytest.mark.parametrize(
    ("pts", "arrival", "expected"),
    [
        (1.0, 51.2, (1.001, True)),  # the same time again
        (0.8, 51.2, (1.001, True)),  # a little back
        (None, 51.5, (1.5, True)),  # none at all: what passed here
        (-900.0, 51.5, (1.5, True)),  # a clock that was set back
        (99.0, 51.5, (1.5, True)),  # and one that ran ahead
        (20.0, 51.5, (20.0, False)),  # a playlist's segments come in bursts
    ],
)
def test_times_only_go_forward(pts: float | None, arrival: float, expected: tuple[float, bool]) -> None:
    clock = LiveClock()
    _times(clock, (0.0, 50.0), (1.0, 51.0))
    assert _times(clock, (pts, arrival)) == [expected]
    if pts is not None and abs(pts) > 50:
        assert _times(clock, (pts + 0.5, arrival + 0.5)) == [(2.0, False)], "the new clock is followed"


def test_a_file_may_stand_still_for_minutes() -> None:
    assert _times(LiveClock(trusted=True), (0.0, 50.0), (300.0, 50.1)) == [(0.0, False), (300.0, False)]


def _frame(number: int) -> Frame:
    return Frame(picture(number), float(number), number)


def _fill(policy: DropPolicy, frames: int, room: int) -> tuple[list[int], int]:
    queue = Waiting(policy, room * _frame(0).num_bytes)
    lost = sum(queue.put(_frame(number)) for number in range(frames))
    queue.finish()
    read = []
    while (frame := queue.get()) is not None:
        read.append(frame.index)
    return read, lost


@pytest.mark.parametrize(("policy", "read", "lost"), [("latest", [5], 5), ("every", [0, 1, 2], 3)])
def test_what_nobody_reads_is_lost_by_the_policy(policy: DropPolicy, read: list[int], lost: int) -> None:
    assert _fill(policy, 6, room=3) == (read, lost)


def test_blocking_loses_nothing() -> None:
    queue = Waiting("block", 1)
    lost: list[int] = []
    writer = threading.Thread(target=lambda: lost.extend(queue.put(_frame(i)) for i in range(5)))
    writer.start()
    read = [frame.index for frame in (queue.get() for _ in range(5)) if frame is not None]
    writer.join()
    assert (read, sum(lost)) == ([0, 1, 2, 3, 4], 0)


def test_a_writer_that_waits_is_let_go() -> None:
    queue = Waiting("block", 1)
    queue.put(_frame(0))
    writer = threading.Thread(target=queue.put, args=(_frame(1),))
    writer.start()
    queue.finish()
    writer.join(10)
    assert not writer.is_alive()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://bob:s3cret@cam.local:554/a?channel=1", "rtsp://***@cam.local:554/a?channel=1"),
        ("http://h/v.m3u8?token=s3cret&x=1&api_key=s3cret", "http://h/v.m3u8?token=***&x=1&api_key=***"),
        ("https://h/v.mp4#s3cret", "https://h/v.mp4"),
        ("rtsp://bob:s3%2Fcret@[::1]:8554/a", "rtsp://***@[::1]:8554/a"),
        ("rtsp://cam/user=bob_password=s3cret_channel=1.sdp?real", "rtsp://cam/user=***?real"),
        ("udp://239.0.0.1:1234", "udp://239.0.0.1:1234"),
        ("udp://:1234", "udp://:1234"),
    ],
)
def test_passwords_are_in_no_name(url: str, shown: str) -> None:
    assert redacted(url) == shown
    address = read_address(url)
    assert address is not None
    assert (address.name, address.target) == (shown, url)
    assert "s3cret" not in repr(address)


def test_ffmpeg_log_keeps_secrets(caplog: pytest.LogCaptureFixture) -> None:
    hide_in_ffmpeg_logs()
    log = logging.getLogger("libav.http")
    with caplog.at_level("DEBUG", logger="libav.http"):
        log.error("Opening '%s' failed", "http://bob:s3cret@h/a.ts?token=s3cret&n=1")
        log.debug("request: GET /a.ts?sig=s3cret HTTP/1.1\r\nAuthorization: Basic s3cret\r\nHost: h")
    assert [record.getMessage() for record in caplog.records] == [
        "Opening 'http://***@h/a.ts?token=***&n=1' failed",
        "request: GET /a.ts?sig=*** HTTP/1.1\r\nAuthorization: ***\r\nHost: h",
    ]


def test_paths_are_no_addresses() -> None:
    assert read_address("clips/a.mp4") is None
    assert read_address("C:\\clips\\a.mp4") is None
    assert read_address("/dev/null") is None


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (
            "gopher://bob:s3cret@h/x",
            InvalidValueError,
            r"'gopher://\*\*\*@h/x': a URL must begin with.*rtsp://",
        ),
        ("rtsp://", InvalidValueError, "'rtsp://': the host is missing; write rtsp://HOST/PATH"),
        ("http:///cam", InvalidValueError, "the host is missing"),
        ("tcp://127.0.0.1", InvalidValueError, "needs a port, as in tcp://127.0.0.1:1234"),
        (
            "rtsp://h:99999/a",
            InvalidValueError,
            r"'rtsp://h:99999/a': host or port cannot be read.*0\.\.65535",
        ),
        ("rtsp://bob:s3cret@[::1/a", InvalidValueError, r"'rtsp://\*\*\*@\[::1/a': .* IPv6 address"),
        ("rtsp://bob:a/s3cret@h/a", InvalidValueError, r"'rtsp://\*\*\*@h/a': .* password are written %2F"),
        (-1, InvalidValueError, "a camera's number must be 0 or more"),
        (True, InvalidValueError, "a camera's number must be 0 or more"),
        (57, SourceNotFoundError, "camera 57: /dev/video57 does not exist"),
        ("/dev/video57", SourceNotFoundError, "/dev/video57 does not exist"),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras have other names elsewhere")
def test_what_cannot_be_is_said(source: str | int, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        read_address(source)
    assert "s3cret" not in f"{raised.value!r}{raised.value.__context__!r}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"drop": "newest"}, "unknown drop policy 'newest'"),
        ({"rtsp_transport": "http"}, "unknown rtsp_transport 'http'"),
        ({"fps": 0}, "fps must be"),
        ({"open_timeout_seconds": 0}, "open_timeout_seconds must be above 0"),
        ({"read_timeout_seconds": -1}, "read_timeout_seconds must be"),
        ({"reconnect_seconds": float("nan")}, "reconnect_seconds must be"),
    ],
)
def test_options_are_checked(options: dict[str, object], said: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError), match=said):
        LiveOptions(**options)  # type: ignore[arg-type]


def test_health_counts_gaps_and_rates() -> None:
    now = [100.0]
    pulse = Pulse(lambda: now[0])
    assert (pulse.health().connected, pulse.health().silent_seconds) == (False, None)
    for step in range(5):
        now[0] = 100.0 + step / 2
        pulse.arrived(now[0], step / 2)
    pulse.read(101.9)
    health = pulse.health()
    assert (health.connected, health.fps, health.received, health.delivered) == (True, 2.5, 5, 1)
    assert health.latency_seconds == pytest.approx(0.1)
    now[0] = 103.0
    pulse.lost("closed")
    pulse.lost("refused")
    assert (pulse.health().connected, pulse.health().error) == (False, "refused")
    assert pulse.health().silent_seconds == 1.0
    now[0] = 107.0
    pulse.arrived(107.0, 7.0)
    health = pulse.health()
    (gap,) = health.gaps
    assert (gap.after_pts_seconds, gap.seconds, gap.reason) == (2.0, 5.0, "refused")
    assert (health.reconnects, health.connected, health.error) == (1, True, "")
    assert health.fps == pytest.approx(0.4), "two in the last five seconds"
