"""Every kind of live source against a real server on this machine, and what can come wrong from one."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from streamprune.errors import (
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    SourceTimeoutError,
)
from streamprune.readers import Frame, LiveSource, open_source
from tests.readers.media import Media, number_of, write_audio, write_video
from tests.readers.servers import (
    live_playlist,
    motion_jpeg,
    rtmp_server,
    self_signed,
    tcp_server,
    udp_sender,
    web_server,
)


def read(source: str, count: int, **how: Any) -> tuple[list[Frame], LiveSource]:
    """The first ``count`` frames, which must have come in order, and their closed source."""
    with open_source(source, drop="every", **how) as live:
        assert isinstance(live, LiveSource)
        frames = list(itertools.islice(live, count))
    times = [frame.pts_seconds for frame in frames]
    assert times == sorted(set(times)), "never back and never the same"
    assert times[0] == 0.0
    return frames, live


def numbers(frames: list[Frame]) -> list[int]:
    return [number_of(frame.image) for frame in frames]


def steps_ms(frames: list[Frame]) -> set[int]:
    times = [frame.pts_seconds for frame in frames]
    return {round(1000 * (later - earlier)) for earlier, later in itertools.pairwise(times)}


def test_transport_stream_over_tcp_comes_back_after_every_hang_up(media: Media) -> None:
    film = media("h264.ts").read_bytes()
    with tcp_server([film] * 3) as url:
        frames, live = read(url, 300)
    for epoch in range(3):
        shown = numbers([frame for frame in frames if frame.epoch == epoch])
        assert shown == list(range(100)), "each film in order, nothing lost, nothing twice"
    assert [gap.reason.partition(": ")[2] for gap in live.health().gaps] == [
        "the connection was closed by the other side"
    ] * 2


def test_transport_stream_over_udp(media: Media) -> None:
    with udp_sender(media("h264.ts").read_bytes()) as url:
        frames, _ = read(url, 40)
    shown = numbers(frames)
    assert all((later - earlier) % 100 == 1 for earlier, later in itertools.pairwise(shown))


def test_rtmp(media: Media) -> None:
    with rtmp_server(media("h264.flv")) as url:
        frames, live = read(url, 50, reconnect_seconds=0)
    assert numbers(frames) == list(range(50))
    assert steps_ms(frames) == {40}
    assert live.info.codec == "h264"


def test_a_playlist_goes_on_from_segment_to_segment(media: Media, tmp_path: Path) -> None:
    film = write_video(tmp_path / "short_groups.mp4", gop=10, options={"x264-params": "bframes=0:scenecut=0"})
    with web_server(live_playlist(tmp_path, film)) as place:
        frames, _ = read(f"{place}/live.m3u8?token=s3cret", 25)
    shown = numbers(frames)
    assert shown[0] == 20, "the newest segment of three comes first"
    assert shown == list(range(20, 45))
    assert steps_ms(frames) == {40}


def test_what_ffmpeg_logs_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    lines = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/gone.ts?token=s3cret\n#EXT-X-ENDLIST\n"
    before = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with (
            caplog.at_level("DEBUG"),
            web_server({"/list.m3u8": ("application/vnd.apple.mpegurl", lines.encode())}) as place,
            pytest.raises(SourceError) as raised,
        ):
            open_source(f"{place.replace('//', '//bob:s3cret@')}/list.m3u8?token=s3cret")
    finally:
        av.logging.set_level(before)
    assert "gone.ts?token=***" in caplog.text
    assert "s3cret" not in caplog.text + str(raised.value)


def test_motion_jpeg_over_https(tmp_path: Path) -> None:
    camera = {"/camera": motion_jpeg(lambda: iter(range(30)))}
    with web_server(camera, self_signed(tmp_path)) as place:
        frames, _ = read(f"{place}/camera", 20)
    assert numbers(frames) == list(range(20))
    assert all(frame.pts_estimated for frame in frames), "its time stamps only count pictures"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("as_text", [True, False])
def test_a_named_pipe_is_read_to_its_end(media: Media, tmp_path: Path, as_text: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(media("h264.mkv").read_bytes()))
    writer.start()
    with open_source(str(pipe) if as_text else pipe) as source:
        shown = [number_of(frame.image) for frame in source]
    writer.join()
    assert shown == list(range(100))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_silent_pipe_is_given_up_and_let_go(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(SourceTimeoutError, match=r"pipe: no picture within 0\.2 s"):
        open_source(pipe, open_timeout_seconds=0.1, read_timeout_seconds=0.1)
    for thread in threading.enumerate():
        if str(pipe) in thread.name:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras have other names elsewhere")
@pytest.mark.parametrize("source", [3, "/dev/video3"])
def test_a_camera_is_opened_by_its_number_or_device(
    source: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine of ours has one: a generator of FFmpeg's stands in its place."""
    asked: list[tuple[Any, ...]] = []
    open_really, exists = av.open, Path.exists

    def open_instead(file: Any, *, format: Any, container_options: Any, timeout: Any, **_: Any) -> Any:
        asked.append((file, format, container_options, timeout))
        return open_really("testsrc2=size=128x96:rate=25", format="lavfi")

    monkeypatch.setattr(av, "open", open_instead)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/video3" or exists(self))
    frames, live = read(source, 5, open_timeout_seconds=7, read_timeout_seconds=6)  # type: ignore[arg-type]
    assert (frames[0].rows, frames[0].cols) == (96, 128)
    ((device, kind, options, timeout),) = asked
    assert (device, kind, timeout) == ("/dev/video3", "v4l2", (7.0, 6.0))
    assert "protocol_whitelist" not in options
    assert live.info.source == ("camera 3" if source == 3 else "/dev/video3")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cameras have other names elsewhere")
@pytest.mark.parametrize(
    ("number", "error", "said"),
    [
        (errno.EBUSY, SourceError, "camera 3: another program is using it"),
        (errno.ENOTTY, SourceFormatError, "camera 3: this device gives no pictures"),
        (errno.ENODEV, SourceNotFoundError, "camera 3: the camera is not plugged in"),
        (errno.EACCES, SourcePermissionError, "camera 3: no permission to open it"),
    ],
)
def test_a_camera_that_cannot_be_opened_says_why(
    number: int, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: str, **_: Any) -> None:
        av.error.err_check(-number, file)

    exists = Path.exists
    monkeypatch.setattr(av, "open", refuse)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/video3" or exists(self))
    with pytest.raises(error, match=said):
        open_source(3)


def _audio(media: Media, folder: Path) -> bytes:
    return write_audio(folder / "audio.ts").read_bytes()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_audio, "carries no video that can be decoded, only: audio"),
        (lambda media, folder: b"this is no video\n" * 1000, "what comes is no video"),
        (lambda media, folder: b"", "what comes is no video"),
    ],
    ids=["only sound", "text", "nothing"],
)
def test_what_carries_no_video_is_refused(
    make: Callable[[Media, Path], bytes], said: str, media: Media, tmp_path: Path
) -> None:
    with tcp_server([make(media, tmp_path)]) as url, pytest.raises(SourceFormatError, match=said) as raised:
        open_source(url)
    assert url in str(raised.value)


def test_nobody_who_answers_is_a_time_out() -> None:
    with pytest.raises(SourceTimeoutError, match=r"udp://127\.0\.0\.1:\d+: no answer in time"):
        open_source("udp://127.0.0.1:45999", open_timeout_seconds=0.2, read_timeout_seconds=0.2)


def test_another_size_in_mid_stream_is_scaled_and_told(tmp_path: Path) -> None:
    large = write_video(tmp_path / "large.ts", numbers=range(50)).read_bytes()
    small = write_video(tmp_path / "small.ts", numbers=range(50, 100), size=(64, 96), shift_seconds=2.0)
    with tcp_server([large + small.read_bytes()]) as url:
        frames, live = read(url, 70, reconnect_seconds=5)
    assert {(frame.rows, frame.cols) for frame in frames} == {(96, 128)}
    assert max(numbers(frames)) > 50
    changed = [number for number in numbers(frames) if number >= 50]
    assert live.report.rescaled_frames >= len(changed) > 0
    assert "changed size and were scaled" in " ".join(live.report.lines())


def test_a_clock_that_jumps_back_is_followed_on(media: Media) -> None:
    late, early = media("late.ts").read_bytes(), media("h264.ts").read_bytes()
    with tcp_server([late + early]) as url:
        frames, live = read(url, 150, reconnect_seconds=5)
    assert numbers(frames) == [*range(100), *range(50)]
    jumped = [frame for frame in frames if frame.pts_estimated]
    assert len(jumped) == live.report.estimated_pts == 1
    assert all(0 < step <= 100 for step in steps_ms(frames))


def test_pictures_without_times_are_timed_by_their_arrival(media: Media) -> None:
    with tcp_server([media("raw.h264").read_bytes()]) as url:
        frames, live = read(url, 40, reconnect_seconds=5)
    assert all(frame.pts_estimated for frame in frames)
    assert live.report.estimated_pts >= 40


def test_patience_that_ends_says_why(media: Media) -> None:
    with (
        tcp_server([media("h264.ts").read_bytes()]) as url,
        open_source(url, drop="every", reconnect_seconds=0) as live,
        pytest.raises(SourceError, match="the connection was closed by the other side"),
    ):
        for _ in live:
            pass
    assert not live.health().connected  # type: ignore[attr-defined]
