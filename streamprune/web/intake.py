"""Pictures from a page into its stream: while one is looked at only the newest other one waits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from streamprune.errors import StreampruneError
from streamprune.pipelines.live_clock import TOO_SOON
from streamprune.readers.base import Frame
from streamprune.web.messages import Picture
from streamprune.web.overlay import seen
from streamprune.web.pictures import read_jpeg
from streamprune.web.workers import Workers

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream

logger = logging.getLogger("streamprune.web")


class Intake:
    """Publishes one message for every picture offered: ``seen``, ``refused``, or ``replaced`` by another."""

    def __init__(
        self, live: LiveStream, workers: Workers, publish: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._live = live
        self._workers = workers
        self._publish = publish
        self._newest: tuple[Picture, float] | None = None
        self._there = asyncio.Event()
        self._connections = 0

    def offer(self, picture: Picture) -> None:
        """Take a picture in, in place of one that still waits."""
        if self._newest is not None:
            self._publish({"type": "replaced", "number": self._newest[0].number})
        self._newest = (picture, time.monotonic())
        self._there.set()

    def begin(self) -> None:
        """A page has connected; its clock and numbers may begin anew with every connection."""
        self._connections += 1
        self._newest = None

    async def run(self) -> None:
        """Look at one picture after the other, until cancelled."""
        while True:
            await self._there.wait()
            self._there.clear()
            if self._newest is not None:
                (picture, arrival_seconds), self._newest = self._newest, None
                self._publish(await self._look(picture, arrival_seconds))

    async def _look(self, picture: Picture, arrival_seconds: float) -> Mapping[str, Any]:
        try:
            return await self._workers.run(self._push, picture, arrival_seconds)
        except StreampruneError as error:
            message = str(error)
        except Exception:
            logger.exception("picture %d failed", picture.number)
            message = "something went wrong with this picture; the server's log says what"
        return {"type": "refused", "number": picture.number, "message": message}

    def _push(self, picture: Picture, arrival_seconds: float) -> Mapping[str, Any]:
        frame = Frame(
            read_jpeg(picture.jpeg),
            picture.seconds,
            picture.number,
            epoch=self._connections,
            arrival_seconds=arrival_seconds,
            source="page",
        )
        pushed = self._live.push(frame)
        if pushed.reason == TOO_SOON:
            return {"type": "replaced", "number": picture.number}
        return seen(picture.number, pushed)
