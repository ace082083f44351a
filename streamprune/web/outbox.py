"""What waits to be sent to a page, in order and bounded: a page that does not read is let go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

_MOST_WAITING = 256

# close codes of WebSockets; those from 4000 on are this project's own, and the page knows them
TRY_LATER = 1013
ELSEWHERE = 4001
IDLE = 4002


@dataclass(frozen=True)
class Goodbye:
    """The last message: why the connection is closed."""

    code: int
    reason: str


class Outbox:
    """Messages for one connection. ``put`` never waits; `run` sends until a goodbye."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Mapping[str, Any] | bytes | Goodbye] = asyncio.Queue()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Something waits: what is only of the moment need not be added."""
        return not self._waiting.empty()

    def put(self, message: Mapping[str, Any] | bytes) -> None:
        """Send later; with too much waiting, the connection is closed instead."""
        if self._closed:
            return
        if self._waiting.qsize() >= _MOST_WAITING:
            self.close(Goodbye(TRY_LATER, "the page does not read what it is sent"))
        else:
            self._waiting.put_nowait(message)

    def close(self, goodbye: Goodbye) -> None:
        """Send what waits, then close."""
        if not self._closed:
            self._closed = True
            self._waiting.put_nowait(goodbye)

    async def run(self, websocket: WebSocket) -> None:
        """Send; returns after a goodbye, or when the page is gone."""
        try:
            while not isinstance(message := await self._waiting.get(), Goodbye):
                if isinstance(message, bytes):
                    await websocket.send_bytes(message)
                else:
                    await websocket.send_text(json.dumps(message))
            await websocket.close(message.code, message.reason)
        except (WebSocketDisconnect, RuntimeError):
            # the page went away while this was sent; a RuntimeError where it had told so before
            return
