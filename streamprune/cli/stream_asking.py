"""Questions of ``streamprune stream``: asked one after the other in a thread, while frames go on arriving."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamprune.errors import StreampruneError

if TYPE_CHECKING:
    from streamprune.pipelines.live import LiveStream


@dataclass
class Exchange:
    """One question and what has been said to it so far.

    Attributes:
        question: as it was asked.
        at_seconds: the stream's newest moment when the answer was begun.
        text: of the answer, growing.
        ms: from asking to the end of the answer.
        error: why there is none; empty if there is.
        done: nothing more comes.
    """

    question: str
    at_seconds: float = 0.0
    text: str = ""
    ms: float = 0.0
    error: str = ""
    done: bool = False
    asked: float = field(default_factory=time.perf_counter)

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, ready for JSON."""
        told = {"question": self.question, "at_seconds": self.at_seconds, "text": self.text, "ms": self.ms}
        return {**told, "error": self.error} if self.error else told


class Asker:
    """Answers questions about one stream in the order they were asked.

    Args:
        live: the stream.
        max_new_tokens: longest answer.
        told: called with every finished exchange, from this object's thread.
    """

    def __init__(self, live: LiveStream, max_new_tokens: int, told: Callable[[Exchange], None]) -> None:
        self.failed = False
        self._live, self._max_new_tokens, self._told = live, max_new_tokens, told
        self._open: queue.Queue[Exchange | None] = queue.Queue()
        self._ending = threading.Event()
        # no daemon: one that is inside the model when the interpreter goes down can take it down hard
        self._thread = threading.Thread(target=self._run, name="streamprune asker")
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether every question has been answered."""
        return self._open.unfinished_tasks == 0

    def ask(self, question: str) -> Exchange:
        """Put a question; its answer grows in what comes back."""
        exchange = Exchange(question)
        self._open.put(exchange)
        return exchange

    def close(self, *, at_once: bool = False) -> None:
        """End the thread, when all is answered or ``at_once``: after the token that is being said."""
        if at_once:
            self._ending.set()
        self._open.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (exchange := self._open.get()) is not None:
            if not self._ending.is_set():
                self._answer(exchange)
            self._open.task_done()

    def _answer(self, exchange: Exchange) -> None:
        exchange.at_seconds = self._live.stats().newest_seconds or 0.0
        try:
            with self._live.ask(
                exchange.question, stream=True, max_new_tokens=self._max_new_tokens
            ) as pieces:
                for piece in pieces:
                    exchange.text += piece
                    if self._ending.is_set():
                        break
                else:
                    exchange.text = pieces.answer.text
        except StreampruneError as error:
            exchange.error = str(error)
            self.failed = True
        exchange.ms = 1000 * (time.perf_counter() - exchange.asked)
        exchange.done = True
        self._told(exchange)
