"""A source whose frames go into a stream by themselves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from streamprune.cache.ledger import Ledger
from streamprune.errors import InvalidValueError, StreamClosedError
from streamprune.pipelines.live_clock import Slots
from streamprune.pipelines.live_stats import Pushed
from streamprune.readers import Frame, Health, LiveSource, Source, open_source
from streamprune.readers.address import read_address
from streamprune.readers.live_options import DropPolicy

logger = logging.getLogger("streamprune.pipelines")

# after so many frames that fail one after the other it is not the frames
_MOST_FAILURES = 20
# one that is being decoded and one that is being pushed
_FRAMES_UNDER_WAY = 2


class Feed:
    """Pushes the frames of ``source`` in a thread of its own, until it ends, fails or is stopped.

    What goes wrong ends the feed and not the stream: see :attr:`error`. A frame that fails is logged and
    counted, and the next one is taken.

    Args:
        source: read from its beginning, and closed in the end.
        push: takes one frame.
        ledger: asked for the source's queue and the frames under way, tier "frames".
        max_bytes: of them.
        fps: at most so many frames a second are pushed, by the source's own times.

    Raises InvalidValueError when ``max_bytes`` are too few for the source.
    """

    def __init__(
        self,
        source: Source,
        push: Callable[[Frame], Pushed],
        ledger: Ledger,
        max_bytes: int,
        fps: Fraction | None = None,
    ) -> None:
        info = source.info
        picture = info.rows * info.cols * 3
        self._nbytes = max(source.queue_bytes, picture) + _FRAMES_UNDER_WAY * picture
        if self._nbytes > max_bytes:
            raise InvalidValueError(
                f"frame_bytes={max_bytes:,} are too few for {info.source}: its queue and the pictures of "
                f"{info.rows} x {info.cols} under way take {self._nbytes:,}; open the stream with more "
                "frame_bytes, or the source with resize= or a smaller prefetch_bytes"
            )
        self._source, self._push, self._ledger = source, push, ledger
        self._stopped = threading.Event()
        self._slots = Slots(fps)
        self.pushed = 0
        self.failed = 0
        self.error: BaseException | None = None
        ledger.take("frames", self._nbytes)
        self._thread = threading.Thread(target=self._run, name="streamprune-feed", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "alive" if self.alive else "over" if self.error is None else f"failed: {self.error}"
        return f"Feed({self._source.info.source!r}, {self.pushed} frames, {state})"

    @property
    def alive(self) -> bool:
        """Whether frames may still come."""
        return self._thread.is_alive()

    @property
    def nbytes(self) -> int:
        """Bytes of its queue and the frames under way."""
        return self._nbytes

    def health(self) -> Health | None:
        """How a live source is doing; None for others."""
        return self._source.health() if isinstance(self._source, LiveSource) else None

    def stop(self) -> None:
        """Take no more frames, and wait for the thread; stopping twice is harmless."""
        self._stopped.set()
        self._source.close()
        self.join()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the source has ended, at most ``timeout`` seconds; whether it has."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._read()
        except StreamClosedError:
            pass
        except BaseException as error:
            if not self._stopped.is_set():
                self.error = error
                logger.warning("the feed of %s has ended: %s", self._source.info.source, error)
        finally:
            self._source.close()
            self._ledger.give("frames", self._nbytes)

    def _read(self) -> None:
        in_a_row = 0
        for frame in self._source:
            if self._stopped.is_set():
                return
            if not self._slots.take(frame.pts_seconds):
                continue
            try:
                self._push(frame)
            except StreamClosedError:
                return
            except Exception as error:
                self.failed += 1
                in_a_row += 1
                if in_a_row >= _MOST_FAILURES:
                    raise
                logger.warning("frame at %.3f s is left out: %s", frame.pts_seconds, error)
            else:
                in_a_row = 0
                self.pushed += 1


def open_for_feed(
    source: Any, fps: Fraction | None, drop: DropPolicy | None, max_bytes: int, options: dict[str, Any]
) -> Source:
    """Open what users give; an open Source is as it is. Raises SourceError or UsageError."""
    if isinstance(source, Source):
        if options:
            raise InvalidValueError(
                f"{', '.join(sorted(options))} cannot be given with an open Source; open it with them"
            )
        return source
    chosen = {"prefetch_bytes": max_bytes // 2, **options}
    live = isinstance(source, (str, int)) and read_address(source) is not None
    if live or options.get("realtime"):
        chosen |= {"fps": fps, "drop": drop}
    return open_source(source, **chosen)
