"""The server's own source on a page: one picture on its way at a time, and then the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamprune.web.shared import SharedSource


class Screen:
    """Sends views of ``shared``; the next only after the page has said that it shows the last."""

    def __init__(self, shared: SharedSource, send: Callable[[bytes], None]) -> None:
        self._shared = shared
        self._send = send
        self._there = asyncio.Event()
        self._may_send = asyncio.Event()

    def shown(self) -> None:
        """The page shows what it was sent."""
        self._may_send.set()

    async def run(self) -> None:
        """Send, until cancelled; once for each connection of the page."""
        loop = asyncio.get_running_loop()

        def notify() -> None:
            loop.call_soon_threadsafe(self._there.set)

        self._may_send.set()
        self._there.set()
        self._shared.watch(notify)
        last = -1
        try:
            while True:
                await self._there.wait()
                await self._may_send.wait()
                self._there.clear()
                view = self._shared.view
                if view is not None and view.number != last:
                    last = view.number
                    self._may_send.clear()
                    self._send(view.packed)
        finally:
            self._shared.unwatch(notify)
