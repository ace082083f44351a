"""One source of the server's own, one stream that looks at it, and everybody who wants to see it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from streamprune.errors import StreampruneError
from streamprune.pipelines.live_stats import Pushed
from streamprune.readers.base import Frame, Image
from streamprune.web.overlay import seen
from streamprune.web.pictures import write_jpeg

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream
    from streamprune.pipelines.live_feed import Feed
    from streamprune.readers import Source


@dataclass(frozen=True)
class View:
    """A picture of the source and what became of it."""

    number: int
    told: Mapping[str, Any]
    image: Image

    @cached_property
    def packed(self) -> bytes:
        """The two in one message, so that they cannot come apart: length of the JSON, JSON, JPEG.

        Made when somebody looks, and once for everybody who does.
        """
        told = json.dumps(self.told).encode()
        return len(told).to_bytes(4, "big") + told + write_jpeg(self.image)


class SharedSource:
    """Feeds ``source`` to ``live``, and shows what became of each frame; owns both from then on."""

    def __init__(self, source: Source, live: LiveStream) -> None:
        self.live = live
        self._source = source
        self._feed: Feed | None = None
        self._watchers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._view: View | None = None

    @property
    def view(self) -> View | None:
        """The newest picture; None before the first."""
        return self._view

    def start(self) -> None:
        """Begin to read."""
        self._feed = self.live.push_from(self._source, on_pushed=self._show)

    def watch(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` (from the feed's thread) for every new picture, until `unwatch`."""
        with self._lock:
            self._watchers.add(notify)

    def unwatch(self, notify: Callable[[], None]) -> None:
        """The end of `watch`."""
        with self._lock:
            self._watchers.discard(notify)

    def health(self) -> dict[str, Any]:
        """How the source is doing, as plain values."""
        feed = self._feed
        reading = feed is not None and feed.alive
        told: dict[str, Any] = {"name": self._source.info.source, "connected": reading, "error": ""}
        if feed is not None and not reading:
            told["error"] = _reason(feed.error)
        health = None if feed is None else feed.health()
        if health is not None:
            told |= {
                "connected": health.connected and reading,
                "error": told["error"] or health.error,
                "dropped": health.dropped,
                "reconnects": health.reconnects,
                "fps": health.fps,
            }
        return told

    def close(self) -> None:
        """Stop reading, and end the stream."""
        self.live.close()
        self._source.close()

    def _show(self, frame: Frame, pushed: Pushed) -> None:
        number = 0 if self._view is None else self._view.number + 1
        self._view = View(number, seen(number, pushed), frame.image)
        with self._lock:
            watchers = list(self._watchers)
        for notify in watchers:
            notify()


def _reason(error: BaseException | None) -> str:
    """Why a source is over; what was not meant for users is in the log."""
    if error is None:
        return "the source has ended"
    return (
        str(error) if isinstance(error, StreampruneError) else "the source failed; the server's log says why"
    )
