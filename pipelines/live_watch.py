"""A question that is asked again and again, and tells somebody when its answer is the awaited one."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from streamprune.checks import check_flag
from streamprune.errors import InvalidTypeError, InvalidValueError, StreamClosedError
from streamprune.pipelines.answers import Answer
from streamprune.readers.base import check_seconds

logger = logging.getLogger("streamprune.pipelines")

_REMEMBERED = 1000


@dataclass(frozen=True, kw_only=True)
class Alert:
    """An answer that was waited for.

    Attributes:
        question: what was asked.
        text: what the model said.
        pts_seconds: of the newest frame when the question was asked.
        answer: the answer with its stats.
    """

    question: str
    text: str
    pts_seconds: float
    answer: Answer


def begins_with_yes(text: str) -> bool:
    """Whether an answer says yes."""
    return text.strip().lower().startswith("yes")


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """When to ask, and when to tell.

    Args:
        every: seconds of the stream between questions; None: only on news.
        on_novelty: ask whenever the frame gate sees an event.
        when: whether an answer's text is to be told.
        repeat: tell every such answer; otherwise only the first after one that was not.
    """

    every: float | None = None
    on_novelty: bool = False
    when: Callable[[str], bool] = begins_with_yes
    repeat: bool = False

    def __post_init__(self) -> None:
        check_flag("on_novelty", self.on_novelty)
        check_flag("repeat", self.repeat)
        if self.every is not None and check_seconds("every", self.every) == 0:
            raise InvalidValueError(
                "every must be above 0 seconds, got 0; leave it out and give on_novelty=True"
            )
        if self.every is None and not self.on_novelty:
            raise InvalidValueError("give every= (seconds between questions), on_novelty=True, or both")
        if not callable(self.when):
            raise InvalidTypeError(f"when must be a function of the answer's text, got {self.when!r}")


class Watch:
    """Asks in a thread of its own, about the newest moment: while an answer is given nothing queues up.

    Times are those of the stream, so that nothing is asked while no frame comes. What ``callback`` or an
    answer raises is logged, and the watch goes on.

    Args:
        question: for the alerts.
        ask: answers it now; the event ends the answer.
        callback: called with every alert, from the watch's thread.
    """

    def __init__(
        self,
        question: str,
        ask: Callable[[threading.Event], Answer],
        callback: Callable[[Alert], object],
        options: WatchOptions,
    ) -> None:
        if not callable(callback):
            raise InvalidTypeError(f"callback must be a function of an Alert, got {callback!r}")
        self.question, self.options = question, options
        self._ask, self._callback = ask, callback
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._due: float | None = None  # next time of the stream to ask
        self._asked_at: float | None = None  # a moment that is waiting for its question
        self._held = False  # whether the last answer was one to tell
        self._alerts: deque[Alert] = deque(maxlen=_REMEMBERED)
        self.errors = 0
        self._thread = threading.Thread(target=self._run, name="streamprune-watch", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"Watch({self.question!r}, {len(self._alerts)} alerts{'' if self.alive else ', stopped'})"

    @property
    def alive(self) -> bool:
        """Whether it still asks."""
        return self._thread.is_alive() and not self._stopped.is_set()

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """What was told so far, the latest 1000."""
        return tuple(self._alerts)

    def notice(self, seconds: float, event: bool) -> None:
        """A frame was taken in; called by the stream."""
        with self._changed:
            every = self.options.every
            due = every is not None and (self._due is None or seconds >= self._due)
            if not due and not (event and self.options.on_novelty):
                return
            if every is not None:
                self._due = seconds + every
            self._asked_at = seconds
            self._changed.notify_all()

    def stop(self) -> None:
        """Ask no more, end an answer that is being given, and wait for the thread."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while (seconds := self._next()) is not None:
            try:
                self._look(seconds)
            except StreamClosedError:
                return
            except Exception:
                self.errors += 1
                logger.exception("watching for %r failed once", self.question)

    def _next(self) -> float | None:
        """The newest moment to ask about, as soon as there is one; None at the end."""
        with self._changed:
            while self._asked_at is None and not self._stopped.is_set():
                self._changed.wait()
            seconds, self._asked_at = self._asked_at, None
            return None if self._stopped.is_set() else seconds

    def _look(self, seconds: float) -> None:
        answer = self._ask(self._stopped)
        if self._stopped.is_set():
            return
        before, self._held = self._held, bool(self.options.when(answer.text))
        if not self._held or (before and not self.options.repeat):
            return
        alert = Alert(question=self.question, text=answer.text, pts_seconds=seconds, answer=answer)
        self._alerts.append(alert)
        self._callback(alert)
