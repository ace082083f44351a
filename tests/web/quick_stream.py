"""A stream without a model, so that the page's server can be tested in milliseconds.

It keeps the patches of the left half, answers a question with the question itself, word by word, and can be
held in the middle of a picture or an answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np

from streamprune.cache.ledger import Ledger
from streamprune.errors import InvalidValueError
from streamprune.pipelines.answers import Answer, AnswerStream, Stats
from streamprune.pipelines.live_feed import Feed
from streamprune.pipelines.live_stats import FrameCounts, LiveStats, Pushed
from streamprune.pipelines.live_watch import Alert
from streamprune.readers import Frame, Source

GRID = (2, 4)


def quick_answer(question: str, text: str) -> Answer:
    nothing = dict.fromkeys((one.name for one in fields(Stats)), 0)
    return Answer(text=text, question=question, stats=Stats(**nothing), recipe="none")


class QuickWatch:
    """Calls back once for every picture, until stopped."""

    def __init__(self, question: str, callback: Callable[[Any], None]) -> None:
        self.question = question
        self.callback = callback
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


class QuickStream:
    """The methods of a LiveStream that the server calls; ``gate`` cleared holds pictures and answers."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.pushing = threading.Event()
        self.frames: list[Frame] = []
        self.watches: list[QuickWatch] = []
        self.closed = False
        self._feed: Feed | None = None

    def push(self, frame: Frame) -> Pushed:
        self.pushing.set()
        assert self.gate.wait(10)
        self.frames.append(frame)
        for watch in self.watches:
            if not watch.stopped:
                answer = quick_answer(watch.question, "yes")
                watch.callback(
                    Alert(question=watch.question, text="yes", pts_seconds=frame.pts_seconds, answer=answer)
                )
        rows, cols = GRID
        kept = np.array([row * cols + col for row in range(rows) for col in range(cols // 2)])
        return Pushed(
            accepted=True,
            pts_seconds=frame.pts_seconds,
            tokens_in=rows * cols,
            tokens_kept=len(kept),
            kept_cells=kept,
            reused_cells=np.array([0, 3]),
            grid=GRID,
            ms={"encode": 1.5, "read": 0.5},
        )

    def push_from(self, source: Source, on_pushed: Callable[[Frame, Pushed], None]) -> Feed:
        def push(frame: Frame) -> Pushed:
            pushed = self.push(frame)
            on_pushed(frame, pushed)
            return pushed

        self._feed = Feed(source, push, Ledger(10_000_000), 10_000_000)
        return self._feed

    def ask(self, question: str, *, max_new_tokens: int, stream: bool) -> AnswerStream:
        assert stream
        if not self.frames:
            raise InvalidValueError("nothing was seen yet; push a frame first")

        def work(put: Callable[[str], None], cancelled: threading.Event) -> Answer:
            said = ""
            for word in question.split():
                assert self.gate.wait(10)
                if cancelled.is_set():
                    break
                put(word + " ")
                said += word + " "
            return quick_answer(question, said)

        return AnswerStream(work)

    def watch(self, question: str, callback: Callable[[Any], None], **_: Any) -> QuickWatch:
        self.watches.append(QuickWatch(question, callback))
        return self.watches[-1]

    def stats(self) -> LiveStats:
        seen = len(self.frames)
        newest = self.frames[-1].pts_seconds if seen else None
        return LiveStats(
            memory_bytes=1000, held={"recent": 10 * seen, "mid": 0}, peak_bytes=10 * seen,
            frames=FrameCounts(seen, seen, 0), reasons={}, clock_jumps=0, tokens_in=8 * seen,
            tokens_kept=4 * seen, tower_share=0.75, fps=2.0, ms={}, questions=0, latency_seconds=None,
            newest_seconds=newest, remembers_from_seconds=newest, tiers={},
        )  # fmt: skip

    def reset(self) -> None:
        self.frames.clear()

    def close(self) -> None:
        if self._feed is not None:
            self._feed.stop()
        self.closed = True
