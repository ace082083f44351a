"""What works beside a stream in threads of its own: feeds, which bring frames, and watches, which ask."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from streamprune.cache.ledger import Ledger
from streamprune.errors import StreamClosedError
from streamprune.pipelines.live_feed import Feed, open_for_feed
from streamprune.pipelines.live_stats import Pushed
from streamprune.pipelines.live_watch import Watch
from streamprune.readers import Frame
from streamprune.readers.live_options import DropPolicy


class Workers:
    """Feeds and watches of one stream; every method may be called from any thread.

    Args:
        push: takes a frame, and the name of what brings it.
        ledger: of the stream.
        frame_bytes: for the queues of all feeds together.
    """

    def __init__(self, push: Callable[[str, Frame], Pushed], ledger: Ledger, frame_bytes: int) -> None:
        self._push, self._ledger, self._frame_bytes = push, ledger, frame_bytes
        self._lock = threading.Lock()
        self._feeds: list[Feed] = []
        self._begun = 0
        self._watches: list[Watch] = []
        self._ended = False

    def feed(
        self,
        source: Any,
        fps: Fraction | None,
        drop: DropPolicy | None,
        options: dict[str, Any],
        on_pushed: Callable[[Frame, Pushed], object] | None = None,
    ) -> Feed:
        """Begin to push the frames of ``source``."""
        opened = open_for_feed(source, fps, drop, self._frame_bytes, options)
        try:
            with self._lock:
                self._check()
                self._feeds = [one for one in self._feeds if one.alive]
                room = self._frame_bytes - sum(one.nbytes for one in self._feeds)
                self._begun += 1
                origin = f"feed {self._begun}"
                feed = Feed(opened, self._pushing(origin, on_pushed), self._ledger, room, fps)
                self._feeds.append(feed)
        except BaseException:
            if opened is not source:
                opened.close()
            raise
        return feed

    def _pushing(
        self, origin: str, on_pushed: Callable[[Frame, Pushed], object] | None
    ) -> Callable[[Frame], Pushed]:
        def push(frame: Frame) -> Pushed:
            pushed = self._push(origin, frame)
            if on_pushed is not None:
                on_pushed(frame, pushed)
            return pushed

        return push

    def watch(self, make: Callable[[], Watch]) -> Watch:
        """Begin the watch that ``make`` gives."""
        with self._lock:
            self._check()
            watch = make()
            self._watches = [*(one for one in self._watches if one.alive), watch]
        return watch

    def notice(self, seconds: float, event: bool) -> None:
        """Tell the watches of a frame that was taken in."""
        for watch in self._watches:
            watch.notice(seconds, event)

    def stop(self) -> None:
        """End all of them, and let none begin."""
        with self._lock:
            self._ended = True
            running: list[Feed | Watch] = [*self._feeds, *self._watches]
        for one in running:
            one.stop()

    def _check(self) -> None:
        if self._ended:
            raise StreamClosedError("the stream is closed; open another one with vlm.open_stream()")
