"""Sources that bring frames by themselves, and questions that are asked by themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamprune as sp
from streamprune import errors
from streamprune.embedded.world import Clip, clip
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.live_stats import Pushed
from streamprune.pipelines.live_watch import Alert
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import Frame, open_source
from tests.readers.media import Media

FRAMES = 8
SETTINGS: dict[str, Any] = {"memory": "rekv", "memory_bytes": 8_000_000, "gate": False}


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return sp.load("embedded")


@pytest.fixture(scope="module")
def video() -> Clip:
    return clip(9_100, FRAMES, split="eval", questions=4)


@pytest.fixture
def live(vlm: VideoLLM) -> Iterator[LiveStream]:
    with vlm.open_stream(**SETTINGS) as opened:
        yield opened


def threads() -> list[str]:
    return sorted(one.name for one in threading.enumerate() if one.name.startswith("streamprune"))


def test_a_feed_brings_all_frames(vlm: VideoLLM, live: LiveStream, video: Clip) -> None:
    feed = live.push_from(video.frames)
    assert feed.join(30)
    assert (feed.pushed, feed.failed, feed.error, feed.alive, feed.health()) == (8, 0, None, False, None)
    assert live.stats().frames == (8, 8, 0)
    assert live.stats().newest_seconds == 7.0
    assert live.stats().held["frames"] == 0
    with vlm.open_stream(**SETTINGS) as by_hand:
        for frame in video.frames:
            by_hand.push(frame)
        for one in video.questions:
            assert by_hand.ask(one.text).text == live.ask(one.text).text


def test_a_second_feed_goes_on_behind_the_first(live: LiveStream, video: Clip) -> None:
    for _ in range(2):
        assert live.push_from(video.frames).join(30)
    stats = live.stats()
    assert (stats.frames.accepted, stats.newest_seconds, stats.clock_jumps) == (16, 15.0, 0)


def test_a_feed_may_take_fewer_frames(live: LiveStream, video: Clip) -> None:
    feed = live.push_from(video.frames, fps=0.5)
    assert feed.join(30)
    assert (feed.pushed, live.stats().newest_seconds) == (4, 6.0)


def test_a_feed_tells_of_every_frame(live: LiveStream, video: Clip) -> None:
    told: list[tuple[Frame, Pushed]] = []
    assert live.push_from(video.frames, on_pushed=lambda *one: told.append(one)).join(30)
    assert [frame.pts_seconds for frame, _ in told] == [pushed.pts_seconds for _, pushed in told]
    assert [pushed.tokens_kept for _, pushed in told] == [36] * FRAMES
    assert all(
        np.array_equal(frame.image, image) for (frame, _), image in zip(told, video.frames, strict=True)
    )


def test_an_open_source_is_closed_in_the_end(live: LiveStream, video: Clip) -> None:
    source = open_source(video.frames)
    assert live.push_from(source).join(30)
    assert source.closed
    with pytest.raises(errors.InvalidValueError, match="resize cannot be given with an open Source"):
        live.push_from(open_source(video.frames), resize=(20, 20))


def test_a_feed_is_stopped_at_once(live: LiveStream, video: Clip) -> None:
    seen = threading.Event()

    def endless() -> Iterator[Frame]:
        number = 0
        while True:
            yield Frame(video.frames[number % FRAMES], float(number), number)
            number += 1
            if number > 3:
                seen.set()

    feed = live.push_from(endless())
    assert seen.wait(30)
    feed.stop()
    feed.stop()
    assert not feed.alive
    assert feed.error is None
    taken = live.stats().frames.seen
    assert live.push(video.frames[0]).accepted
    assert live.stats().frames.seen == taken + 1


def test_closing_ends_every_thread(vlm: VideoLLM, video: Clip) -> None:
    before = threads()
    live = vlm.open_stream(**SETTINGS)

    def endless() -> Iterator[np.ndarray[Any, Any]]:
        while True:
            yield from video.frames

    live.push_from(endless())
    live.watch("is there a star?", lambda alert: None, every=1)
    live.close()
    assert threads() == before
    with pytest.raises(errors.StreamClosedError, match="closed"):
        live.push_from(video.frames)
    with pytest.raises(errors.StreamClosedError, match="closed"):
        live.watch("is there a star?", print, every=1)


def test_a_source_that_fails_ends_the_feed_alone(live: LiveStream, video: Clip) -> None:
    def broken() -> Iterator[Frame]:
        yield Frame(video.frames[0], 0.0, 0)
        yield Frame(video.frames[1], 1.0, 1)
        yield Frame(video.frames[1], 2.0, 2)
        raise errors.SourceFormatError("the cable is out")

    feed = live.push_from(broken())
    assert feed.join(30)
    assert isinstance(feed.error, errors.SourceFormatError)
    assert "failed: the cable is out" in repr(feed)
    assert live.push(video.frames[2]).accepted
    assert live.ask(video.questions[0].text).text


def test_a_frame_that_fails_is_left_out(
    live: LiveStream, video: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = live.family.encode, []

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("a cosmic ray")
        return real(*args, **kwargs)

    monkeypatch.setattr(live.family, "encode", fails_once)
    feed = live.push_from(video.frames)
    assert feed.join(30)
    assert (feed.pushed, feed.failed, feed.error) == (7, 1, None)
    assert live.stats().reasons == {"failed: RuntimeError": 1}
    assert live.stats().frames == (8, 7, 1)


def test_frames_that_all_fail_end_the_feed(
    live: LiveStream, video: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no more light")

    monkeypatch.setattr(live.family, "encode", fails)
    feed = live.push_from(frame for _ in range(5) for frame in video.frames)
    assert feed.join(30)
    assert (feed.pushed, feed.failed, str(feed.error)) == (0, 20, "no more light")


def test_sources_that_are_none(live: LiveStream, tmp_path: Path) -> None:
    with pytest.raises(errors.SourceNotFoundError):
        live.push_from(tmp_path / "nothing.mp4")
    with pytest.raises(errors.InvalidTypeError, match="fps must be"):
        live.push_from([], fps="2")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidValueError, match="frame_bytes=1,000,000 are too few for"):
        live.push_from(np.zeros((2, 1080, 1920, 3), np.uint8))
    assert live.stats().held["frames"] == 0


def test_a_file_at_its_own_pace(live: LiveStream, media: Media) -> None:
    feed = live.push_from(media("h264.mp4"), realtime=True, fps=5, drop="every")
    ends = time.monotonic() + 30
    while not live.stats().frames.accepted and time.monotonic() < ends:
        time.sleep(0.01)
    health = feed.health()
    assert health is not None
    assert health.connected
    feed.stop()
    assert (feed.alive, feed.error) == (False, None)
    assert live.stats().latency_seconds is not None


class Asked:
    """Alerts of a watch, and a way to wait for them."""

    def __init__(self, fails: bool = False) -> None:
        self.alerts: list[Alert] = []
        self.there = threading.Semaphore(0)
        self.fails = fails

    def __call__(self, alert: Alert) -> None:
        self.alerts.append(alert)
        self.there.release()
        if self.fails:
            raise RuntimeError("the listener is broken")


@pytest.mark.parametrize("fails", [False, True])
def test_a_watch_tells(live: LiveStream, video: Clip, fails: bool) -> None:
    asked = Asked(fails)
    watch = live.watch("which shape is pink?", asked, every=2, when=lambda text: True, repeat=True)
    for number in range(4):
        live.push(video.frames[number], float(2 * number))
        assert asked.there.acquire(timeout=30)
    watch.stop()
    assert [alert.pts_seconds for alert in asked.alerts] == [0.0, 2.0, 4.0, 6.0]
    assert {alert.question for alert in watch.alerts} == {"which shape is pink?"}
    assert watch.alerts == tuple(asked.alerts)
    assert watch.errors == (4 if fails else 0)
    assert not watch.alive
    live.push(video.frames[5], 20.0)
    assert len(watch.alerts) == 4


def test_a_watch_tells_once_until_it_changes(live: LiveStream, video: Clip) -> None:
    answers = iter([True, True, False, True, True])
    asked, looked = Asked(), threading.Semaphore(0)

    def when(text: str) -> bool:
        looked.release()
        return next(answers)

    watch = live.watch("is there a star?", asked, every=1, when=when)
    for number in range(5):
        live.push(video.frames[number], float(number))
        assert looked.acquire(timeout=30)
    watch.stop()
    assert [alert.pts_seconds for alert in watch.alerts] == [0.0, 3.0]


def test_a_watch_asks_about_news(vlm: VideoLLM, video: Clip) -> None:
    still, new = video.frames[0], 255 - video.frames[0]
    with vlm.open_stream(**{**SETTINGS, "gate": {"duplicate_threshold": 0.0}}) as live:
        asked = Asked()
        live.push(still)
        watch = live.watch("is there a star?", asked, on_novelty=True, when=lambda text: True, repeat=True)
        for number in range(1, 5):
            live.push(np.clip(still.astype(int) + number % 2, 0, 255).astype(np.uint8))
        live.push(new)
        assert asked.there.acquire(timeout=30)
        watch.stop()
        assert [alert.pts_seconds for alert in watch.alerts] == [5.0]


def test_slow_answers_do_not_queue_up(live: LiveStream, video: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, begun, go_on = Asked(), threading.Event(), threading.Event()
    answering = live._core.parts.answering
    real = answering.answer

    def slow(*args: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return real(*args)

    monkeypatch.setattr(answering, "answer", slow)
    watch = live.watch("is there a star?", asked, every=1, when=lambda text: True, repeat=True)
    live.push(video.frames[0], 0.0)
    assert begun.wait(30)
    for number in range(1, 6):
        live.push(video.frames[number], float(number))
    go_on.set()
    for _ in range(2):
        assert asked.there.acquire(timeout=30)
    watch.stop()
    assert [alert.pts_seconds for alert in watch.alerts] == [0.0, 5.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give every="),
        ({"every": 0}, "every must be above 0 seconds"),
        ({"every": "1"}, "every must be a number of seconds"),
        ({"every": 1, "when": "yes"}, "when must be a function"),
        ({"every": 1, "repeat": 1}, "repeat must be True or False"),
        ({"every": 1, "callback": None}, "callback must be a function"),
        ({"every": 1, "max_new_tokens": 0}, "max_new_tokens must be at least 1"),
    ],
)
def test_watches_that_cannot_be_meant(live: LiveStream, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        live.watch("is there a star?", **{"callback": print, **settings})
