"""What a page and the server say to each other: pictures, questions, watches, and coming back."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from streamprune.pipelines.answers import AnswerStream
from streamprune.pipelines.live_stats import Pushed
from streamprune.readers.base import Frame
from streamprune.web.app import create_app
from streamprune.web.options import WebOptions
from tests.web.page_server import PageServer, hear, jpeg, picture, say, served
from tests.web.quick_stream import QuickStream

ABOUT = {"model": "quick", "settings": {"memory": "none"}}


@dataclass(frozen=True)
class House:
    """A server and the streams that were opened on it."""

    server: PageServer
    streams: list[QuickStream]


@contextmanager
def serving(kind: type[QuickStream] = QuickStream, **settings: Any) -> Iterator[House]:
    """A server of ``kind`` for the time of the block."""
    streams: list[QuickStream] = []

    def open_stream() -> QuickStream:
        streams.append(kind())
        return streams[-1]

    options = WebOptions(port=0, max_upload_bytes=4000, **settings)
    with served(create_app(open_stream, options, ABOUT), options) as server:  # type: ignore[arg-type]
        yield House(server, streams)
        for stream in streams:
            stream.gate.set()
    assert all(stream.closed for stream in streams), "the end of the server is the end of every stream"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """One for most tests, with room for a session each."""
    with serving(max_sessions=64) as opened:
        yield opened


@pytest.fixture
def page(house: House) -> Iterator[ClientConnection]:
    """A page that has just been opened."""
    with house.server.connect() as connected:
        yield connected


@pytest.fixture
def stream(house: House, page: ClientConnection) -> QuickStream:
    """The stream of that page."""
    hear(page, "hello")
    return house.streams[-1]


def test_a_picture_is_seen(stream: QuickStream, page: ClientConnection) -> None:
    page.send(picture(7, 1.5, jpeg(24, 32, 200)))
    seen = hear(page, "seen")
    assert (seen["number"], seen["accepted"], seen["seconds"], seen["ms"]) == (7, True, 1.5, 2.0)
    assert (seen["grid"], seen["cells"]) == ([2, 4], "31021100"), "kept 1, reused 2, both 3"
    (frame,) = stream.frames
    assert (frame.image.shape, frame.pts_seconds, frame.source) == ((24, 32, 3), 1.5, "page")
    assert np.abs(frame.image.astype(int) - 200).max() <= 2


def _claiming(rows: int, cols: int) -> bytes:
    """A JPEG whose header tells another size than its picture has."""
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", rows, cols)
    return bytes(data)


@pytest.mark.parametrize(
    ("message", "number", "reason"),
    [
        (b"", None, "a picture is 12 bytes of number and time and a JPEG, got 0 bytes"),
        (picture(3, 0.0)[:12], 3, "got 12 bytes"),
        (picture(3, 0.0, b"no picture"), 3, "a picture must be a whole JPEG"),
        (picture(3, 0.0, jpeg()[:-200]), 3, "a picture must be a whole JPEG"),
        (picture(3, 0.0, _claiming(6000, 5000)), 3, "at most 16777216 pixels, got 6000 x 5000"),
        (picture(3, 0.0, bytes(4001)), 3, "has 4001 bytes, at most 4000 are taken in"),
        (picture(3, -1.0), 3, r"must be seconds from 0 on, got -1"),
        (picture(3, float("nan")), 3, "must be seconds from 0 on, got nan"),
        (picture(3, float("inf")), 3, "must be seconds from 0 on, got inf"),
    ],
)
def test_what_is_no_picture_is_refused(
    stream: QuickStream, page: ClientConnection, message: bytes, number: int | None, reason: str
) -> None:
    page.send(message)
    refused = hear(page, "refused")
    assert refused["number"] == number
    assert reason in refused["message"]
    page.send(picture(4, 0.0))
    assert hear(page, "seen")["number"] == 4, "the connection goes on"
    assert len(stream.frames) == 1


def _send_and_hear(page: ClientConnection, message: bytes) -> None:
    page.send(message)
    hear(page, "refused")


def test_too_large_a_picture_is_told_of_or_hung_up_on(house: House, page: ClientConnection) -> None:
    page.send(bytes(10_000_000))
    assert "at most 4000 are taken in (--max-upload-bytes)" in hear(page, "refused")["message"]
    with pytest.raises(ConnectionClosed):
        _send_and_hear(page, bytes(17_000_000))
    with house.server.connect() as another:
        hear(another, "hello")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "a message must be JSON"),
        ("[" * 15_000, "a message must be JSON"),
        ("[]", "a message must be a JSON object, got list"),
        ("{}", "type must be ask, cancel, watch, unwatch, shown or reset, got 'None'"),
        ('{"type": "sing"}', "got 'sing'"),
        ('{"type": "ask", "id": "1"}', "question must be text, and not empty"),
        ('{"type": "ask", "id": "1", "question": "  "}', "question must be text, and not empty"),
        ('{"type": "ask", "id": "1", "question": 7}', "question must be text"),
        (json.dumps({"type": "ask", "id": "1", "question": "x" * 2001}), "at most 2000 characters, got 2001"),
        ('{"type": "ask", "question": "x"}', "id must be text of 1 to 64 characters"),
        (json.dumps({"type": "ask", "id": "i" * 65, "question": "x"}), "id must be text of 1 to 64"),
        ('{"type": "watch", "id": "1", "question": "x", "every": 0.1}', "every must be 0.5 to 86400"),
        ('{"type": "watch", "id": "1", "question": "x", "every": NaN}', "every must be seconds or null"),
        ('{"type": "watch", "id": "1", "question": "x", "every": true}', "every must be seconds or null"),
        ('{"type": "shown", "number": -1}', "number must be a whole number from 0 on"),
        (json.dumps({"type": "ask", "id": "1", "question": "x" * 16_000}), "at most 16000 characters"),
    ],
)
def test_what_is_no_message_is_told(page: ClientConnection, text: str, reason: str) -> None:
    page.send(text)
    assert reason in hear(page, "error")["message"]


def test_the_newest_picture_wins(stream: QuickStream, page: ClientConnection) -> None:
    stream.gate.clear()
    page.send(picture(0, 0.0))
    assert stream.pushing.wait(10)
    for number in range(1, 6):
        page.send(picture(number, number / 10))
    waited = [hear(page, "replaced")["number"] for _ in range(4)]
    stream.gate.set()
    seen = [hear(page, "seen")["number"] for _ in range(2)]
    assert (waited, seen) == ([1, 2, 3, 4], [0, 5])
    assert len(stream.frames) == 2


def test_an_answer_comes_in_pieces(page: ClientConnection) -> None:
    page.send(picture(0, 2.0))
    hear(page, "seen")
    say(page, type="ask", id="a", question=" what is red ")
    asked = hear(page, "asked")
    assert (asked["question"], asked["seconds"], asked["state"]) == ("what is red", 2.0, "answering")
    assert [hear(page, "piece")["text"] for _ in range(3)] == ["what ", "is ", "red "]
    answered = hear(page, "answered")
    assert (answered["text"], answered["state"], answered["error"]) == ("what is red ", "done", "")
    assert answered["ms"] > 0


def test_a_question_before_the_first_picture(page: ClientConnection) -> None:
    say(page, type="ask", id="a", question="what?")
    answered = hear(page, "answered")
    assert (answered["state"], answered["text"]) == ("failed", "")
    assert answered["error"] == "nothing was seen yet; push a frame first"


def test_so_many_questions_at_once(stream: QuickStream, page: ClientConnection) -> None:
    page.send(picture(0, 0.0))
    hear(page, "seen")
    stream.gate.clear()
    for id in "abc":
        say(page, type="ask", id=id, question="one two")
    assert "2 questions are being answered" in hear(page, "error")["message"]
    say(page, type="cancel", id="b")
    stream.gate.set()
    states = {(told := hear(page, "answered"))["id"]: told["state"] for _ in range(2)}
    assert states == {"a": "done", "b": "cancelled"}
    say(page, type="ask", id="a", question="again")
    assert "id 'a' was used by another question" in hear(page, "error")["message"]


def test_a_page_that_comes_back_finds_its_answers(house: House) -> None:
    with house.server.connect() as page:
        key = hear(page, "hello")["session"]
        stream = house.streams[-1]
        page.send(picture(0, 0.0))
        hear(page, "seen")
        say(page, type="ask", id="a", question="first")
        hear(page, "answered")
        stream.gate.clear()
        say(page, type="ask", id="b", question="second")
        hear(page, "asked")
    stream.gate.set()
    with house.server.connect(f"?session={key}") as page:
        hello = hear(page, "hello")
        assert hello["session"] == key
        first, second = hello["history"]
        assert (first["text"], first["state"]) == ("first ", "done")
        if second["state"] == "answering":
            second = hear(page, "answered")
        assert (second["text"], second["state"]) == ("second ", "done")
        page.send(picture(0, 0.0))
        hear(page, "seen")
    assert [frame.epoch for frame in stream.frames] == [1, 2], "its clock begins anew"
    assert house.streams[-1] is stream


def closing(page: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes the connection."""
    with pytest.raises(ConnectionClosed) as closed:
        hear(page, "never")
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def test_a_session_is_open_in_one_tab(house: House, page: ClientConnection) -> None:
    key = hear(page, "hello")["session"]
    with house.server.connect(f"?session={key}") as other:
        hear(other, "hello")
        assert closing(page) == (4001, "this session was opened in another tab")
        other.send(picture(0, 0.0))
        assert hear(other, "seen")["number"] == 0


def test_so_many_sessions() -> None:
    with serving(max_sessions=2) as house, house.server.connect() as first:
        hear(first, "hello")
        with house.server.connect() as second:
            hear(second, "hello")
            with house.server.connect() as third:
                told = hear(third, "error")["message"]
                assert "2 pages are connected, which is all there is room for" in told
                assert closing(third) == (1013, "no stream could be opened")
        with house.server.connect() as fourth:
            assert hear(fourth, "hello")["history"] == []
        assert [stream.closed for stream in house.streams[:2]] == [False, True], "what was left made room"


def test_what_is_not_used_is_closed() -> None:
    with serving(idle_seconds=1.0) as house, house.server.connect() as page:
        hear(page, "hello")
        assert closing(page) == (4002, "not used for 1 seconds")
        assert house.streams[0].closed


def test_watches_tell_what_they_find(stream: QuickStream, page: ClientConnection) -> None:
    say(page, type="watch", id="w", question="is it red?", every=1)
    watching = hear(page, "watching")
    assert (watching["question"], watching["every"], watching["alerts"]) == ("is it red?", 1, [])
    page.send(picture(0, 3.0))
    alert = hear(page, "alert")
    assert (alert["id"], alert["question"], alert["text"], alert["seconds"]) == (
        "w",
        "is it red?",
        "yes",
        3.0,
    )
    say(page, type="watch", id="w", question="is it blue?", every=1)
    assert "id 'w' was used by another watch" in hear(page, "error")["message"]
    say(page, type="unwatch", id="w")
    assert hear(page, "unwatched")["id"] == "w"
    assert stream.watches[0].stopped


def test_so_many_watches(page: ClientConnection) -> None:
    for number in range(9):
        say(page, type="watch", id=str(number), question="is it red?")
    assert "8 watches are running" in hear(page, "error")["message"]


def test_everything_can_be_forgotten(stream: QuickStream, page: ClientConnection) -> None:
    page.send(picture(0, 0.0))
    say(page, type="ask", id="a", question="what?")
    hear(page, "answered")
    say(page, type="reset")
    hear(page, "reset")
    assert stream.frames == []
    assert hear(page, "stats")["frames"] == {"seen": 0, "accepted": 0, "skipped": 0}


def test_numbers_are_told(page: ClientConnection) -> None:
    page.send(picture(0, 0.0))
    hear(page, "seen")
    stats = hear(page, "stats", lambda told: told["frames"]["seen"] > 0)
    assert (stats["memory_bytes"], stats["held"]["recent"], stats["peak_bytes"]) == (1000, 10, 10)


class _Broken(QuickStream):
    """What nobody thought of."""

    def push(self, frame: Frame) -> Pushed:
        if frame.index:
            return super().push(frame)
        raise ZeroDivisionError("inner secret")

    def ask(self, question: str, **_: Any) -> AnswerStream:
        raise ZeroDivisionError("another secret")


def test_what_breaks_is_logged_and_the_page_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with serving(_Broken) as house, house.server.connect() as page:
        page.send(picture(0, 0.0))
        assert hear(page, "refused")["message"].startswith("something went wrong with this picture")
        say(page, type="ask", id="a", question="what?")
        assert hear(page, "answered")["error"] == "something went wrong; the server's log says what"
        page.send(picture(1, 0.0))
        assert hear(page, "seen")["number"] == 1
    assert "inner secret" in caplog.text
    assert "another secret" in caplog.text
