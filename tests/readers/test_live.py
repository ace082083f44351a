"""Live sources: losses are mended, times go on, what is asked for is kept, and closing ends everything."""

from __future__ import annotations

import io
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streamprune.errors import (
    InvalidValueError,
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    SourceTimeoutError,
)
from streamprune.readers import open_source
from streamprune.readers.live import LiveSource
from streamprune.readers.live_options import LiveOptions
from streamprune.readers.options import ReadOptions
from tests.readers.feeds import Script, scripted, shown, until_ended
from tests.readers.media import Media, number_of, picture
from tests.readers.servers import Answers, motion_jpeg, web_server

LOST = SourceTimeoutError("script: no answer in time")


def test_a_loss_is_mended_and_times_go_on() -> None:
    first, second = Script([shown(0, 7.0), shown(1, 7.5), LOST]), Script([shown(2, 0.0), shown(3, 0.5)])
    source = scripted([first, SourceNotFoundError("script: refused"), second])
    frames = until_ended(source)
    assert [(number, epoch) for number, _, epoch in frames] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    times = [time for _, time, _ in frames]
    assert times[:2] == [0, 500]
    assert times[3] - times[2] == 500
    assert times[2] > times[1]
    assert first.closed
    assert second.closed
    (gap,) = source.health().gaps
    assert (gap.after_pts_seconds, gap.reason) == (0.5, "script: refused")
    assert gap.seconds > 0.19, "a pause before the second try"
    assert source.health().reconnects == 1
    source.close()


def test_what_a_playlist_gives_again_after_a_loss_is_left_out() -> None:
    first = Script([shown(number, 100 + number / 2) for number in range(4)], continues=True)
    again = Script([shown(number, 100 + number / 2) for number in range(2, 7)], continues=True)
    anew = Script([shown(number, number / 2) for number in range(7, 9)], continues=True)
    source = scripted([first, again, anew])
    assert [(number, epoch) for number, _, epoch in until_ended(source)] == [
        *((number, 0) for number in range(4)), *((number, 1) for number in range(4, 7)), (7, 2), (8, 2)
    ]  # fmt: skip
    assert source.health().repeated == 2


def test_a_connection_without_a_picture_is_none() -> None:
    source = scripted([Script([shown(0, 0.0)]), Script([None]), Script([shown(1, 0.0)])])
    assert [number for number, _, _ in until_ended(source)] == [0, 1]
    assert source.health().corrupt == 1


def test_patience_with_a_server_grows_as_it_comes_back() -> None:
    patience: list[float] = []
    live = LiveOptions(drop="block", open_timeout_seconds=1.5)
    scripts: list[Script | SourceError] = [Script([shown(0, 0.0)]), LOST, LOST, Script([shown(1, 0.0)])]
    assert len(until_ended(scripted(scripts, live=live, patience=patience))) == 2
    assert patience[:4] == [1.5, 1, 1.5, 1.5]


def test_patience_ends() -> None:
    live = LiveOptions(drop="block", reconnect_seconds=0)
    source = scripted([Script([shown(0, 0.0), LOST]), Script([shown(1, 0.0)])], live=live)
    frames = iter(source)
    assert number_of(next(frames).image) == 0
    with pytest.raises(SourceTimeoutError, match="no answer in time"):
        next(frames)
    assert not source.health().connected


def test_what_has_an_end_is_not_opened_again() -> None:
    source = scripted([Script([shown(0, 0.0), shown(1, 1.0)], finite=True), Script([shown(2, 0.0)])])
    assert until_ended(source) == [(0, 0, 0), (1, 1000, 0)]
    assert source.health().gaps == ()


def test_a_wanted_rate_is_kept_before_anything_is_converted() -> None:
    steps = [shown(number, number / 10) for number in range(21)]
    source = scripted([Script(steps, finite=True)], live=LiveOptions(drop="block", fps=2))
    assert [time for _, time, _ in until_ended(source)] == [0, 500, 1000, 1500, 2000]
    health = source.health()
    assert (health.received, health.skipped, health.delivered, health.dropped) == (21, 16, 5, 0)


@pytest.mark.parametrize(("policy", "numbers"), [("keep", [0, 1, 2]), ("drop", [0, 2])])
def test_damage_follows_the_policy(policy: Any, numbers: list[int]) -> None:
    steps = [shown(0, 0.0), shown(1, 1.0, corrupt=True), shown(2, 2.0)]
    source = scripted([Script(steps, finite=True)], options=ReadOptions(corrupt=policy))
    assert [number for number, _, _ in until_ended(source)] == numbers
    assert source.report.corrupt_frames == 1


def test_damage_that_is_not_wanted_ends_it() -> None:
    steps = [shown(0, 0.0), shown(1, 1.0, corrupt=True)]
    source = scripted([Script(steps), Script([shown(2, 0.0)])], options=ReadOptions(corrupt="raise"))
    frames = iter(source)
    next(frames)
    with pytest.raises(SourceFormatError, match=r"the frame at 1\.000 s is damaged"):
        next(frames)


def test_another_size_is_scaled_to_the_first() -> None:
    source = scripted([Script([shown(0, 0.0), shown(1, 1.0, rows=120)], finite=True)])
    assert [(frame.rows, frame.cols) for frame in source] == [(96, 128), (96, 128)]
    assert source.report.rescaled_frames == 1


def test_too_large_a_picture_is_refused() -> None:
    with pytest.raises(SourceFormatError, match="script: 96 x 128 pixels are more than max_pixels"):
        scripted([Script([shown(0, 0.0)], finite=True)], options=ReadOptions(max_pixels=1000), returns=False)


def test_only_the_newest_waits() -> None:
    release = threading.Event()

    class Held(Script):
        def pictures(self) -> Iterator[Any]:
            yield shown(0, 0.0)
            yield from (shown(number, number / 10) for number in range(1, 6))
            release.set()

    source = scripted([Held([], finite=True)], live=LiveOptions(drop="latest"))
    assert release.wait(10)
    assert [number for number, _, _ in until_ended(source)][-1] == 5
    health = source.health()
    assert health.delivered + health.dropped == health.received == 6


def test_a_slow_reader_is_never_more_than_a_frame_behind() -> None:
    """Ten pictures come for each one that is read, a hundred times."""
    taken_in, asked = threading.Semaphore(0), threading.Semaphore(0)

    class Fast(Script):
        def pictures(self) -> Iterator[Any]:
            for number in range(1000):
                yield shown(number % 256, number / 100)
                # asked for the next one: this one has been taken in
                if number % 10 == 9:
                    taken_in.release()
                    assert asked.acquire(timeout=10)

    source = scripted([Fast([], finite=True)], live=LiveOptions(drop="latest"))
    late, waiting = [], []
    frames = iter(source)
    for turn in range(100):
        assert taken_in.acquire(timeout=10)
        waiting.append(source.health().waiting_bytes)
        frame = next(frames)
        late.append(10 * turn + 9 - round(100 * frame.pts_seconds))
        asked.release()
    assert set(late) == {0}
    assert set(waiting) == {frame.num_bytes}, "one frame waits, however many come"
    assert source.health().dropped == 1000 - 100


def test_closing_lets_a_reader_go_and_ends_the_thread() -> None:
    opened, over = threading.Event(), threading.Event()

    class Silent(Script):
        def pictures(self) -> Iterator[Any]:
            yield shown(0, 0.0)
            opened.set()
            over.wait(30)

    source = scripted([Silent([])])
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(source))
    reader.start()
    assert opened.wait(10)
    threading.Timer(0.2, over.set).start()
    source.close()
    reader.join(10)
    assert not reader.is_alive()
    assert not source._thread.is_alive()
    assert len(found) <= 1
    with pytest.raises(SourceError, match="is closed"):
        source.read()


def test_a_live_source_cannot_be_asked_for_times() -> None:
    source = scripted([Script([shown(0, 0.0)], finite=True)])
    assert (source.info.live, source.info.duration_seconds) == (True, None)
    for ask in (lambda: source.sample([0.0]), source.keyframes):
        with pytest.raises(InvalidValueError, match="iterate over it"):
            ask()


def test_a_file_is_played_at_its_own_pace(media: Media) -> None:
    with open_source(media("h264.mp4"), realtime=True, drop="block", fps=5) as source:
        frames = list(source.read(0.0, 0.9))
    with open_source(media("h264.mp4")) as file:
        every = [frame.pts_seconds for frame in file]
    times = [frame.pts_seconds for frame in frames]
    assert times == [time for time in every if time < 0.9][::5]
    started = frames[0].arrival_seconds
    assert started is not None
    for frame in frames:
        assert frame.arrival_seconds is not None
        assert frame.arrival_seconds - started >= frame.pts_seconds - 0.1, "never before its time"


@pytest.mark.parametrize(
    ("source", "given", "said"),
    [
        ("clip", {"drop": "latest"}, "drop belong to live sources"),
        ([picture(0)], {"realtime": True}, "realtime=True plays a video file"),
        ("clip", {"realtime": 1}, "realtime must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    media: Media, source: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        open_source(media("h264.mp4") if source == "clip" else source, **given)


def test_standard_input_is_read_to_its_end(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(media("h264.ts").read_bytes())

    monkeypatch.setattr(sys, "stdin", Stdin)
    with open_source("-") as source:
        assert isinstance(source, LiveSource)
        frames = until_ended(source)
    with open_source(media("h264.ts")) as file:
        assert [number for number, _, _ in frames] == [number_of(frame.image) for frame in file]
    assert source.health().dropped == 0


@pytest.fixture
def web(media: Media) -> Iterator[Callable[[str], str]]:
    """Addresses on this machine: motion JPEG that breaks after five pictures, a file, a refusal."""
    numbers = iter(range(100))
    answers: Answers = {
        "/camera": motion_jpeg(lambda: itertools.islice(numbers, 5)),
        "/clip.mp4": ("video/mp4", media("h264.mp4").read_bytes()),
        "/refused": 401,
    }
    with web_server(answers) as place:
        yield lambda path: place.replace("//", "//bob:s3cret@") + path


def test_motion_jpeg_is_opened_again_when_it_breaks(web: Callable[[str], str]) -> None:
    with open_source(web("/camera"), drop="every") as source:
        assert isinstance(source, LiveSource)
        seen: list[tuple[int, int]] = []
        times: list[float] = []
        for frame in source:
            seen.append((number_of(frame.image), frame.epoch))
            times.append(frame.pts_seconds)
            if frame.epoch == 2:
                break
    numbers = [number for number, _ in seen]
    assert numbers == sorted(set(numbers)), "nothing twice"
    assert {epoch for _, epoch in seen} == {0, 1, 2}
    assert all(number // 5 == epoch for number, epoch in seen)
    assert times == sorted(set(times))
    assert source.health().reconnects == 2


def test_a_download_is_read_to_its_end(web: Callable[[str], str], media: Media) -> None:
    with open_source(web("/clip.mp4?token=s3cret")) as source:
        frames = until_ended(source)
    with open_source(media("h264.mp4")) as file:
        assert [number for number, _, _ in frames] == [number_of(frame.image) for frame in file]
    assert "s3cret" not in repr(source) + source.info.source


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("/nothing", SourceNotFoundError, "the server has nothing under this path"),
        ("/refused", SourcePermissionError, "give the right user and password"),
    ],
)
def test_a_refusal_is_said_without_the_password(
    web: Callable[[str], str], path: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        open_source(web(path))
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_nobody_there_is_said() -> None:
    with pytest.raises(SourceNotFoundError, match=r"127\.0\.0\.1:9/x: nothing listens there"):
        open_source("rtsp://127.0.0.1:9/x", open_timeout_seconds=5)
