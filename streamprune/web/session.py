"""What one page is connected to: a stream, what was asked and watched, and how pictures come or go.

A session outlives its connection, so that a page that comes back finds everything as it was.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from streamprune.errors import InvalidValueError, StreampruneError
from streamprune.web import messages
from streamprune.web.dialogue import Dialogue
from streamprune.web.intake import Intake
from streamprune.web.options import WebOptions
from streamprune.web.outbox import ELSEWHERE, Goodbye, Outbox
from streamprune.web.screen import Screen
from streamprune.web.shared import SharedSource
from streamprune.web.watches import Watches
from streamprune.web.workers import Workers

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream

logger = logging.getLogger("streamprune.web")

_STATS_SECONDS = 0.5


class Session:
    """One browser's. ``shared`` is None when it brings its own pictures, which then go into ``live``.

    Every method belongs to the event loop's thread.
    """

    def __init__(
        self, key: str, live: LiveStream, shared: SharedSource | None, options: WebOptions, workers: Workers
    ) -> None:
        self.key = key
        self._live = live
        self._shared = shared
        self._options = options
        self._workers = workers
        self._outbox: Outbox | None = None
        self._showing: asyncio.Task[None] | None = None
        self._active = time.monotonic()
        self._intake = None if shared is not None else Intake(live, workers, self.publish)
        self._screen = None if shared is None else Screen(shared, self._send)
        ask = partial(live.ask, max_new_tokens=options.max_new_tokens, stream=True)
        self._dialogue = Dialogue(ask, workers, self.publish)
        self._watches = Watches(live, workers, self.publish)

    @property
    def attached(self) -> bool:
        """A page is connected."""
        return self._outbox is not None

    @property
    def idle_seconds(self) -> float:
        """Since something was heard from the page."""
        return time.monotonic() - self._active

    def publish(self, message: Mapping[str, Any]) -> None:
        """Tell the page, if it is connected; if not, it finds it in `greeting` when it comes back."""
        if self._outbox is not None:
            self._outbox.put(message)

    def _send(self, data: bytes) -> None:
        if self._outbox is not None:
            self._outbox.put(data)

    def greeting(self, about: Mapping[str, Any]) -> dict[str, Any]:
        """The first message: everything a page needs to begin, or to go on."""
        return {
            "type": "hello",
            "session": self.key,
            "mode": "page" if self._shared is None else "source",
            "fps": self._options.fps,
            "max_upload_bytes": self._options.max_upload_bytes,
            "history": self._dialogue.history(),
            "watches": self._watches.history(),
            **about,
        }

    def attach(self, outbox: Outbox) -> None:
        """A page connects; one that was connected before is told so."""
        self._leave(Goodbye(ELSEWHERE, "this session was opened in another tab"))
        self._outbox = outbox
        self._active = time.monotonic()
        if self._intake is not None:
            self._intake.begin()
        self._showing = self._workers.start(self._run())

    def detach(self, outbox: Outbox) -> None:
        """A page is gone, unless another has taken its place."""
        if self._outbox is outbox:
            self._leave(None)

    async def hear(self, message: str | bytes) -> None:
        """Do what the page says; what cannot be done is answered with an ``error`` message."""
        self._active = time.monotonic()
        if isinstance(message, bytes):
            self._hear_picture(message)
            return
        try:
            await self._do(messages.read_message(message))
        except StreampruneError as error:
            self.publish({"type": "error", "message": str(error)})

    async def close(self, goodbye: Goodbye) -> None:
        """End everything of this session; a shared stream goes on."""
        self._leave(goodbye)
        await self._watches.close()
        await self._dialogue.close()
        if self._shared is None:
            await self._workers.run(self._live.close)

    def _leave(self, goodbye: Goodbye | None) -> None:
        """End what belongs to the connection, if there is one."""
        if self._outbox is not None and goodbye is not None:
            self._outbox.close(goodbye)
        self._outbox = None
        if self._showing is not None:
            self._showing.cancel()
            self._showing = None

    async def _run(self) -> None:
        """Look at pictures or show them, and tell the numbers, until cancelled."""
        pictures = self._intake or self._screen
        assert pictures is not None
        await asyncio.gather(pictures.run(), self._tell_numbers())

    def _hear_picture(self, data: bytes) -> None:
        try:
            if self._intake is None:
                raise InvalidValueError("this server shows its own source and takes no pictures")
            self._intake.offer(messages.read_picture(data, self._options.max_upload_bytes))
        except StreampruneError as error:
            number = messages.picture_number(data)
            self.publish({"type": "refused", "number": number, "message": str(error)})

    async def _do(self, message: messages.Message) -> None:
        match message:
            case messages.Ask():
                stats = await self._workers.run(self._live.stats)
                self._dialogue.ask(message, stats.newest_seconds)
            case messages.Cancel(id):
                await self._dialogue.cancel(id)
            case messages.Watch():
                await self._watches.add(message)
            case messages.Unwatch(id):
                await self._watches.stop(id)
            case messages.Shown():
                if self._screen is not None:
                    self._screen.shown()
            case messages.Reset():
                await self._reset()

    async def _reset(self) -> None:
        if self._shared is not None:
            raise InvalidValueError("this stream is watched by others too and cannot be reset from a page")
        await self._workers.run(self._live.reset)
        self._dialogue.clear()
        self.publish({"type": "reset"})

    async def _tell_numbers(self) -> None:
        while True:
            if self._outbox is not None and not self._outbox.busy:
                try:
                    self.publish(await self._workers.run(self._numbers))
                except Exception:
                    logger.exception("numbers of a stream could not be had")
            await asyncio.sleep(_STATS_SECONDS)

    def _numbers(self) -> Mapping[str, Any]:
        told: dict[str, Any] = {"type": "stats", **self._live.stats().to_dict()}
        if self._shared is not None:
            told["source"] = self._shared.health()
        return told
