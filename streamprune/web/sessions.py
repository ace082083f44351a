"""All sessions of a server: found again by their key, bounded in number, closed when nobody uses them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamprune.errors import InvalidValueError
from streamprune.web.options import WebOptions
from streamprune.web.outbox import IDLE, TRY_LATER, Goodbye
from streamprune.web.session import Session
from streamprune.web.shared import SharedSource
from streamprune.web.workers import Workers

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream

_GOING_AWAY = 1001
_LOOKS_PER_IDLE = 4


class Sessions:
    """Opens a session, and a stream for it unless all look at ``shared``."""

    def __init__(
        self, open_stream: Callable[[], LiveStream], shared: SharedSource | None, options: WebOptions
    ) -> None:
        self._open_stream = open_stream
        self._shared = shared
        self._options = options
        self.workers = Workers(options.max_sessions)
        self._by_key: dict[str, Session] = {}
        self._opening = asyncio.Lock()

    async def join(self, key: str | None) -> Session:
        """The session of ``key``, or a new one; InvalidValueError when there is no room for another."""
        async with self._opening:
            found = self._by_key.get(key or "")
            if found is not None:
                return found
            await self._make_room()
            if self._shared is not None:
                live = self._shared.live
            else:
                live = await self.workers.run(self._open_stream)
            session = Session(secrets.token_urlsafe(16), live, self._shared, self._options, self.workers)
            self._by_key[session.key] = session
            return session

    async def close_idle(self) -> None:
        """Close what was not used for long, again and again until cancelled."""
        while True:
            await asyncio.sleep(self._options.idle_seconds / _LOOKS_PER_IDLE)
            for session in list(self._by_key.values()):
                if session.idle_seconds > self._options.idle_seconds:
                    goodbye = Goodbye(IDLE, f"not used for {self._options.idle_seconds:g} seconds")
                    await self._close(session, goodbye)

    async def close(self) -> None:
        """Close everything, the shared source included."""
        for session in list(self._by_key.values()):
            await self._close(session, Goodbye(_GOING_AWAY, "the server was stopped"))
        if self._shared is not None:
            await self.workers.run(self._shared.close)
        await self.workers.drain()
        self.workers.close()

    async def _make_room(self) -> None:
        """Where there is none, the session that was left longest ago has to go."""
        if len(self._by_key) < self._options.max_sessions:
            return
        left = [session for session in self._by_key.values() if not session.attached]
        if not left:
            raise InvalidValueError(
                f"{self._options.max_sessions} pages are connected, which is all there is room for "
                "(--max-sessions); close one of them and try again"
            )
        await self._close(max(left, key=lambda one: one.idle_seconds), Goodbye(TRY_LATER, "made room"))

    async def _close(self, session: Session, goodbye: Goodbye) -> None:
        self._by_key.pop(session.key, None)
        await session.close(goodbye)
