"""Questions that are asked again and again, and the alerts that came of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from streamprune.errors import InvalidValueError
from streamprune.web import messages
from streamprune.web.workers import Workers

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream
    from streamprune.pipelines.live_watch import Alert, Watch

_MOST = 8
_REMEMBERED = 50


@dataclass
class Watched:
    """A watch as pages see it."""

    id: str
    question: str
    every: float | None
    alerts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))


class Watches:
    """The watches of one session; publishes ``watching``, ``alert`` and ``unwatched`` messages."""

    def __init__(
        self, live: LiveStream, workers: Workers, publish: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self._live = live
        self._workers = workers
        self._publish = publish
        self._running: dict[str, tuple[Watched, Watch]] = {}

    def history(self) -> list[dict[str, Any]]:
        """Every watch that runs, with its alerts."""
        return [_plain(watched) for watched, _ in self._running.values()]

    async def add(self, asked: messages.Watch) -> None:
        """Begin to watch; every ``asked.every`` seconds, or on what is new where that is None."""
        if asked.id in self._running:
            raise InvalidValueError(f"id {asked.id!r} was used by another watch")
        if len(self._running) >= _MOST:
            raise InvalidValueError(f"{_MOST} watches are running; stop one of them first")
        watched = Watched(asked.id, asked.question, asked.every)
        loop = asyncio.get_running_loop()

        def heard(alert: Alert) -> None:
            loop.call_soon_threadsafe(self._alert, watched, alert)

        watch = self._live.watch(
            asked.question, heard, every=asked.every, on_novelty=asked.every is None, repeat=False
        )
        self._running[asked.id] = (watched, watch)
        self._publish({"type": "watching", **_plain(watched)})

    async def stop(self, id: str) -> None:
        """End a watch; one that is over, or never was, is passed over."""
        if id in self._running:
            _, watch = self._running.pop(id)
            await self._workers.run(watch.stop)
            self._publish({"type": "unwatched", "id": id})

    async def close(self) -> None:
        """End all of them."""
        for id in list(self._running):
            await self.stop(id)

    def _alert(self, watched: Watched, alert: Alert) -> None:
        told = {"text": alert.text, "seconds": alert.pts_seconds}
        watched.alerts.append(told)
        self._publish({"type": "alert", "id": watched.id, "question": watched.question, **told})


def _plain(watched: Watched) -> dict[str, Any]:
    return {**asdict(watched), "alerts": list(watched.alerts)}
