"""One run of ``streamprune stream``: frames go in, questions are put when they are due, all is told."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamprune.cli.stream_asking import Asker
from streamprune.cli.stream_report import Moment, StreamReport
from streamprune.cli.typed_lines import TypedLines
from streamprune.readers import Health, LiveSource, Source

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream
    from streamprune.pipelines.live_watch import Alert

_TICK_SECONDS = 0.1
_GOODBYES = ("q", "/quit")


@dataclass(frozen=True)
class Schedule:
    """What is asked, and when it is over.

    Attributes:
        questions: asked at the end, and ``ask_every`` so many seconds.
        ask_every: seconds of the stream; None: only at the end.
        watched: questions that are asked whenever something changes.
        seconds: the end: of a file's own time, of time on the wall for live sources; None: the source's end.
        stay: go on answering what is typed when the source has ended.
        max_new_tokens: longest answer.
    """

    questions: tuple[str, ...] = ()
    ask_every: float | None = None
    watched: tuple[str, ...] = ()
    seconds: float | None = None
    stay: bool = False
    max_new_tokens: int = 64


class Session:
    """Reads ``source`` into ``live`` until its end, the schedule's, or the user's.

    A file waits while a question is answered; a live source goes on.
    """

    def __init__(
        self,
        live: LiveStream,
        source: Source,
        schedule: Schedule,
        report: StreamReport,
        typed: TypedLines | None,
    ) -> None:
        self._live, self._source, self._schedule = live, source, schedule
        self._report, self._typed = report, typed
        self._asker = Asker(live, schedule.max_new_tokens, report.answered)
        self._due = schedule.ask_every or float("inf")
        self._told_gaps = 0
        self._told_loss = ""
        self._typed_early: list[str] = []

    @property
    def failed(self) -> bool:
        """Whether a question could not be answered."""
        return self._asker.failed

    def run(self) -> None:
        """Run to the end. Raises what the source or the model raised; Ctrl-C is an end like others."""
        watches = [
            self._live.watch(question, self._alerted(question), on_novelty=True)
            for question in self._schedule.watched
        ]
        finished = False
        try:
            finished = self._run()
        except KeyboardInterrupt:
            self._report.note("interrupted", "interrupted")
        finally:
            for watch in watches:
                watch.stop()
            self._asker.close(at_once=not finished)

    def moment(self) -> Moment:
        """How things are now."""
        return Moment(self._live.stats(), self._health(), self._typed.draft if self._typed else "")

    def _run(self) -> bool:
        """Whether the end was reached, with nothing left to ask."""
        with closing(self._ticks()) as ticks:
            for _ in ticks:
                if self._step():
                    return False
        if self._schedule.stay:
            self._report.note("ended", "the source has ended; ask on, or q ends")
        for question in self._schedule.questions:
            self._ask(question)
        while self._schedule.stay or not self._asker.idle:
            if self._step():
                return False
            time.sleep(_TICK_SECONDS)
        return True

    def _ticks(self) -> Generator[None, None, None]:
        """Feed the stream; yields between frames, and many times a second."""
        if isinstance(self._source, LiveSource):
            yield from self._live_ticks()
            return
        again = 0.0
        for frame in self._source.read(0.0, self._schedule.seconds):
            pushed = self._live.push(frame)
            # most frames are passed over, and looking around takes longer than that
            if pushed.accepted or pushed.pts_seconds >= self._due or time.monotonic() >= again:
                again = time.monotonic() + _TICK_SECONDS
                yield
            while not self._asker.idle:
                time.sleep(_TICK_SECONDS)
                yield

    def _live_ticks(self) -> Generator[None, None, None]:
        until = time.monotonic() + (self._schedule.seconds or float("inf"))
        feed = self._live.push_from(self._source)
        try:
            while feed.alive and time.monotonic() < until:
                feed.join(_TICK_SECONDS)
                yield
            if feed.error is not None:
                raise feed.error
        finally:
            feed.stop()

    def _step(self) -> bool:
        """Put what is due, tell what is new; whether the user wants to end."""
        moment = self.moment()
        self._report.moment(moment)
        if moment.health is not None:
            self._tell_health(moment.health)
        if self._typed is not None:
            for line in self._typed.take():
                if line in _GOODBYES:
                    return True
                self._typed_early.append(line)
            if self._schedule.stay and self._typed.ended:
                return True
        if moment.stats.tokens_in:  # before, there is nothing to ask about
            while self._typed_early:
                self._ask(self._typed_early.pop(0))
        newest = moment.stats.newest_seconds or 0.0
        if newest >= self._due:
            every = self._schedule.ask_every or 1.0
            self._due = every * (newest // every + 1)
            if self._asker.idle:  # a model that is slower than that is not asked twice
                for question in self._schedule.questions:
                    self._ask(question)
        return False

    def _ask(self, question: str) -> None:
        self._report.asked(self._asker.ask(question))

    def _alerted(self, question: str) -> Alerted:
        return Alerted(question, self._report)

    def _health(self) -> Health | None:
        return self._source.health() if isinstance(self._source, LiveSource) else None

    def _tell_health(self, health: Health) -> None:
        if health.error != self._told_loss and not self._told_loss:
            self._report.note("lost", f"lost: {health.error}")
        self._told_loss = health.error
        gaps = health.reconnects
        if gaps > self._told_gaps:
            gap = health.gaps[-1]
            self._report.note("back", f"back after {gap.seconds:.1f} s", seconds=gap.seconds)
        self._told_gaps = gaps


@dataclass(frozen=True)
class Alerted:
    """Tells the alerts of one watched question."""

    question: str
    report: StreamReport

    def __call__(self, alert: Alert) -> None:
        """One more."""
        self.report.alert(self.question, alert.text, alert.pts_seconds)
