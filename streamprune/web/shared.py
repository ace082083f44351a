"""One source of the server's own, one stream that looks at it, and everybody who wants to see it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from streamprune.errors import StreampruneError
from streamprune.readers.base import Image
from streamprune.readers.live import LiveSource
from streamprune.web.overlay import seen
from streamprune.web.pictures import write_jpeg

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream
    from streamprune.readers import Source

logger = logging.getLogger("streamprune.web")

_GOODBYE_SECONDS = 5.0


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
    """Pushes the frames of ``source`` into ``live`` in a thread of its own; owns both from then on."""

    def __init__(self, source: Source, live: LiveStream) -> None:
        self.live = live
        self._source = source
        self._watchers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._view: View | None = None
        self._ending = threading.Event()
        self._error = ""
        self._thread = threading.Thread(target=self._run, name="streamprune-web-source", daemon=True)

    @property
    def view(self) -> View | None:
        """The newest picture; None before the first."""
        return self._view

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def watch(self, notify: Callable[[], None]) -> None:
        """Call ``notify`` (from the thread) for every new picture, until `unwatch`."""
        with self._lock:
            self._watchers.add(notify)

    def unwatch(self, notify: Callable[[], None]) -> None:
        """The end of `watch`."""
        with self._lock:
            self._watchers.discard(notify)

    def health(self) -> dict[str, Any]:
        """How the source is doing, as plain values."""
        told: dict[str, Any] = {
            "name": self._source.info.source,
            "connected": self._thread.is_alive(),
            "error": self._error,
        }
        if isinstance(self._source, LiveSource):
            health = self._source.health()
            told |= {
                "connected": health.connected and self._thread.is_alive(),
                "error": self._error or health.error,
                "dropped": health.dropped,
                "reconnects": health.reconnects,
                "fps": health.fps,
            }
        return told

    def close(self) -> None:
        """Stop reading, then end the stream."""
        self._ending.set()
        self._source.close()
        if self._thread.ident is not None:
            self._thread.join(_GOODBYE_SECONDS)
        self.live.close()

    def _run(self) -> None:
        try:
            for number, frame in enumerate(self._source):
                if self._ending.is_set():
                    return
                pushed = self.live.push(frame)
                self._show(View(number, seen(number, pushed), frame.image))
            self._error = "the source has ended"
        except StreampruneError as error:
            self._error = "" if self._ending.is_set() else str(error)
        except Exception:
            logger.exception("the source failed")
            self._error = "the source failed; the server's log says why"

    def _show(self, view: View) -> None:
        self._view = view
        with self._lock:
            watchers = list(self._watchers)
        for notify in watchers:
            notify()
