"""The server's own source: everybody sees it, each as fast as they can, and nobody can end it."""

from __future__ import annotations

import io
import json
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.sync.client import ClientConnection

from streamprune.errors import SourceTimeoutError
from streamprune.readers import Frame, Source
from streamprune.readers.base import VideoInfo
from streamprune.web.app import create_app
from streamprune.web.options import WebOptions
from streamprune.web.shared import SharedSource
from tests.web.page_server import PageServer, hear, picture, say, served
from tests.web.quick_stream import QuickStream


class Camera(Source):
    """Frames that come when they are shown to it; ``failure`` ends them otherwise than by the end."""

    def __init__(self) -> None:
        super().__init__(VideoInfo(source="camera", rows=8, cols=16, live=True))
        self._shown: queue.SimpleQueue[Frame | Exception | None] = queue.SimpleQueue()

    def show(self, level: int) -> None:
        self._shown.put(Frame(np.full((8, 16, 3), level, np.uint8), level / 2, 0))

    def end(self, failure: Exception | None = None) -> None:
        self._shown.put(failure)

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        while (shown := self._shown.get()) is not None:
            if isinstance(shown, Exception):
                raise shown
            yield shown

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        return {}

    def _keyframes(self) -> list[float]:
        return []

    def _close(self) -> None:
        self.end()


class Watched:
    """A server that shows a camera."""

    def __init__(self) -> None:
        self.camera = Camera()
        self.live = QuickStream()
        self.shared = SharedSource(self.camera, self.live)  # type: ignore[arg-type]
        self.options = WebOptions(port=0, max_sessions=3)
        self.app = create_app(QuickStream, self.options, {"model": "m", "settings": {}}, self.shared)  # type: ignore[arg-type]


@pytest.fixture
def watched() -> Iterator[tuple[Watched, PageServer]]:
    """A server that shows a camera; afterwards everything is closed."""
    made = Watched()
    with served(made.app, made.options) as server:
        yield made, server
    assert made.live.closed
    assert not [
        one for one in threading.enumerate() if one.name.startswith(("streamprune-web", "streamprune-feed"))
    ]


def view(page: ClientConnection) -> tuple[dict[str, Any], int]:
    """What was told of the next picture, and the level of its pixels."""
    while not isinstance(heard := page.recv(timeout=10), bytes):
        pass
    length = int.from_bytes(heard[:4], "big")
    told: dict[str, Any] = json.loads(heard[4 : 4 + length])
    with Image.open(io.BytesIO(heard[4 + length :])) as opened:
        assert opened.size == (16, 8)
        return told, round(float(np.asarray(opened).mean()))


def test_pages_see_the_source(watched: tuple[Watched, PageServer]) -> None:
    made, server = watched
    with server.connect() as one, server.connect() as other:
        made.camera.show(3)
        for page in (one, other):
            assert hear(page, "hello")["mode"] == "source"
            told, level = view(page)
            assert (told["number"], told["seconds"], told["cells"], level) == (0, 1.5, "31021100", 3)
        assert made.live.frames[0].pts_seconds == 1.5
    assert len(made.live.frames) == 1, "one stream for all"


def test_a_page_that_is_slow_gets_the_newest(watched: tuple[Watched, PageServer]) -> None:
    made, server = watched
    with server.connect() as page:
        hear(page, "hello")
        made.camera.show(10)
        first, _ = view(page)
        for level in (20, 30, 40):
            made.camera.show(level)
        hear(page, "stats", lambda told: told["frames"]["seen"] == 4)
        say(page, type="shown", number=first["number"])
        told, level = view(page)
        assert (told["number"], level) == (3, 40)


def test_what_belongs_to_all_is_nobody_s(watched: tuple[Watched, PageServer]) -> None:
    made, server = watched
    made.camera.show(1)
    with server.connect() as page:
        view(page)
        page.send(picture(0, 0.0))
        assert "shows its own source" in hear(page, "refused")["message"]
        say(page, type="reset")
        assert "watched by others too" in hear(page, "error")["message"]
        say(page, type="ask", id="a", question="what is it")
        assert hear(page, "answered")["text"] == "what is it "
    assert not made.live.closed, "a page that leaves takes nothing with it"


def test_the_end_is_told(watched: tuple[Watched, PageServer]) -> None:
    made, server = watched
    with server.connect() as page:
        made.camera.show(1)
        hear(page, "stats", lambda told: told["source"]["connected"] and told["frames"]["seen"])
        made.camera.end()
        over = hear(page, "stats", lambda told: not told["source"]["connected"])
        assert over["source"]["error"] == "the source has ended"
        say(page, type="ask", id="a", question="what was it")
        assert hear(page, "answered")["state"] == "done"


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (SourceTimeoutError("camera: no answer in time"), "camera: no answer in time"),
        (ZeroDivisionError("inner secret"), "the source failed; the server's log says why"),
    ],
)
def test_a_failure_is_told(watched: tuple[Watched, PageServer], failure: Exception, told: str) -> None:
    made, server = watched
    with server.connect() as page:
        made.camera.end(failure)
        over = hear(page, "stats", lambda told: not told["source"]["connected"])
        assert over["source"]["error"] == told
