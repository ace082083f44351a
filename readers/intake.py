"""The thread of a live source: takes pictures in, connects again after a loss, hands frames on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

from streamprune.errors import SourceError, SourceFormatError
from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame, check_fps
from streamprune.readers.connection import Connection, Picture
from streamprune.readers.health import Pulse
from streamprune.readers.live_clock import LiveClock
from streamprune.readers.live_options import DropPolicy, LiveOptions
from streamprune.readers.options import ReadOptions
from streamprune.readers.report import ReadReport
from streamprune.readers.waiting import Waiting

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS, _JITTER_SECONDS = 0.2, 1.0, 0.1
_FIRST_PATIENCE_SECONDS = 1.0
# a playlist begins anew with a piece of this length at most; what is further back is another clock
_REPEATED_SECONDS = 30.0


class Intake:
    """The thread's side of a live source; it holds this and not the source, so that one can be collected.

    Args:
        name: of the source, for people.
        connect: opens a connection within so many seconds; raises SourceError.
        live, options: the user's.
        drop: the policy in force.
        returns: whether to connect again after a loss.
        stopped: set to end everything.
        interrupt: called then, to end a wait that `stopped` does not reach.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[float], Connection],
        live: LiveOptions,
        options: ReadOptions,
        *,
        drop: DropPolicy | None,
        returns: bool,
        stopped: threading.Event,
        interrupt: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.pulse = Pulse()
        self.report = ReadReport()
        self.stopped = stopped
        self.first: Connection | None = None
        self.begun = threading.Event()  # there is a first picture, or there will be none
        self.waiting = Waiting("latest", max(1, options.prefetch_bytes))
        self._connect = connect
        self._interrupt = interrupt
        self._live = live
        self._options = options
        self._drop = drop
        self._returns = returns
        self._clock = LiveClock()
        self._step = None if live.fps is None else float(1 / check_fps("fps", live.fps))
        self._due = 0.0
        self._size: tuple[int, int] | None = options.resize
        self._epoch = 0
        self._newest_pts: float | None = None  # on the clock of a connection that continues
        self._seen_to: float | None = None  # the same, before a loss

    @property
    def size(self) -> tuple[int, int]:
        """(rows, cols) of every frame, known with the first."""
        assert self._size is not None  # asked after the first picture
        return self._size

    def run(self) -> None:
        """Take in pictures until there is an end."""
        failure: BaseException | None = None
        try:
            connection, pictures, picture = self._arrive(self._live.open_timeout_seconds)
            self._settle(connection, picture)
            while True:
                loss = self._take_all(connection, pictures, picture)
                if loss is None:
                    break
                connection, pictures, picture = self._come_back(loss)
                self._epoch += 1
                self._clock.begin()
                self._seen_to = self._newest_pts if connection.continues else None
        except _Stopped:
            pass
        except BaseException as error:  # is raised where the frames are read
            failure = error
        finally:
            self.pulse.ended()
            self.waiting.finish(failure)
            self.begun.set()

    def _arrive(self, patience_seconds: float) -> tuple[Connection, Iterator[Picture | None], Picture]:
        """A connection and its first picture; one that gives none counts as not made."""
        if self.stopped.is_set():
            raise _Stopped
        connection = self._connect(patience_seconds)
        try:
            pictures = connection.pictures()
            for picture in pictures:
                if self.stopped.is_set():
                    raise _Stopped
                if picture is not None:
                    self._options.check_pixels(self.name, *picture.size)
                    return connection, pictures, picture
                self.pulse.count("corrupt")
            raise SourceFormatError(f"{self.name}: ended before the first picture")
        except BaseException:
            connection.close()
            raise

    def _settle(self, connection: Connection, picture: Picture) -> None:
        """What the first connection decides for all."""
        policy = self._drop or ("block" if connection.finite else "latest")
        self.waiting = Waiting(policy, max(1, self._options.prefetch_bytes))
        self._returns = self._returns and not connection.finite
        self._clock = LiveClock(trusted=connection.finite)
        self._size = self._size or picture.size
        self.first = connection
        self.begun.set()

    def _take_all(
        self, connection: Connection, pictures: Iterator[Picture | None], first: Picture
    ) -> SourceError | None:
        """Hand on what a connection gives; what ended it, None for an end that is no loss."""
        try:
            self._take(first, connection.continues)
            for picture in pictures:
                if self.stopped.is_set():
                    raise _Stopped
                if picture is None:
                    self.pulse.count("corrupt")
                    self.report.note("packet_errors", None)
                else:
                    self._take(picture, connection.continues)
            loss = SourceError(f"{self.name}: the connection was closed by the other side")
            return loss if self._returns else None
        except SourceError as error:
            if not self._returns or isinstance(error, _Refused):
                raise
            return error
        finally:
            connection.close()

    def _come_back(self, loss: SourceError) -> tuple[Connection, Iterator[Picture | None], Picture]:
        """Try again, with growing pauses and patience; SourceError when that took too long.

        A server that is just coming back may take a first call and never answer it.
        """
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            sleep_using_event,
            stop_after_delay,
            stop_never,
            stop_when_event_set,
            wait_exponential,
            wait_random,
        )

        self.pulse.lost(str(loss))
        patience, longest = self._live.reconnect_seconds, self._live.open_timeout_seconds
        if patience == 0:
            raise loss
        limit = stop_never if patience is None else stop_after_delay(patience)
        again = Retrying(
            wait=wait_exponential(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
            + wait_random(0, _JITTER_SECONDS),
            stop=limit | stop_when_event_set(self.stopped),
            retry=retry_if_exception_type(SourceError),
            sleep=sleep_using_event(self.stopped),
            after=lambda state: self.pulse.lost(str(state.outcome and state.outcome.exception())),
            reraise=True,
        )
        try:
            tries = count()
            found: tuple[Connection, Iterator[Picture | None], Picture] = again(
                lambda: self._arrive(min(longest, _FIRST_PATIENCE_SECONDS * 2 ** next(tries)))
            )
        except SourceError:
            if self.stopped.is_set():
                raise _Stopped from None
            raise
        return found

    def _take(self, picture: Picture, continues: bool) -> None:
        arrival = time.monotonic()
        if continues and self._came_before(picture.pts):
            self.pulse.count("repeated")
            return
        pts, estimated = self._clock.seconds(picture.pts, arrival)
        self.pulse.arrived(arrival, pts)
        if self._step is not None:
            if pts < self._due - SAME_MOMENT_SECONDS:
                self.pulse.count("skipped")
                return
            self._due = max(self._due + self._step, pts)
        if picture.corrupt:
            self.pulse.count("corrupt")
            self.report.note("corrupt_frames", None)
            if self._options.corrupt == "raise":
                raise _Refused(
                    f"{self.name}: the frame at {pts:.3f} s is damaged; "
                    'use corrupt="keep" or corrupt="drop" to go on'
                )
            if self._options.corrupt == "drop":
                self.report.note("dropped_frames", None)
                return
        if estimated:
            self.report.note("estimated_pts", None)
        self._deliver(picture, pts, estimated, arrival)

    def _came_before(self, pts: float | None) -> bool:
        """Whether a picture on the clock that goes on over losses was there before the last one."""
        if pts is None:
            return False
        if self._seen_to is not None and 0 <= self._seen_to - pts < _REPEATED_SECONDS:
            return True
        self._newest_pts, self._seen_to = pts, None
        return False

    def _deliver(self, picture: Picture, pts: float, estimated: bool, arrival: float) -> None:
        if picture.size != self.size and self._options.resize is None:
            self._options.check_pixels(self.name, *picture.size)
            self.report.note("rescaled_frames", None)
        frame = Frame(
            picture.image(self.size),
            pts,
            0,  # numbered when it is read
            key=picture.key,
            corrupt=picture.corrupt,
            pts_estimated=estimated,
            epoch=self._epoch,
            arrival_seconds=arrival,
            source=self.name,
        )
        self.pulse.count("dropped", self.waiting.put(frame))

    def stop(self) -> None:
        """End everything; a reader that waits is let go."""
        self.stopped.set()
        self.waiting.finish()
        if self._interrupt is not None:
            self._interrupt()


class _Stopped(Exception):
    """The source was closed; never leaves this module."""


class _Refused(SourceFormatError):
    """A damaged frame that the user does not want, which no new connection makes better."""
