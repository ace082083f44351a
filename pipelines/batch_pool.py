"""Worker processes that answer groups of questions, replaced when they die."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamprune.errors
from streamprune.errors import ModelError, StreampruneError
from streamprune.pipelines.batch_process import Message, WorkerProcess
from streamprune.pipelines.batch_report import Work
from streamprune.pipelines.batch_settings import BatchSettings, Group

# deaths that one group may cause, and workers that may die in a row before their model is loaded
_MOST_DEATHS = 2

Row = dict[str, Any]


class WorkerPool:
    """Processes with a loaded model each.

    Args:
        settings: how they answer.
        workers: how many, at least 1.
        threads: of torch and of the decoder, in each of them; None leaves both as they are.

    A worker that dies is replaced, and what it was at is tried once more, by a worker that does nothing else
    meanwhile. A group on which that one dies, too, is given up: its questions get an ``error``. Use it as a
    context manager, which ends the workers.
    """

    def __init__(self, settings: BatchSettings, workers: int, threads: int | None) -> None:
        self.work = Work(workers)
        self._settings, self._most, self._threads = settings, workers, threads
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._workers: list[WorkerProcess] = []
        self._early_deaths = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def run(self, groups: Sequence[Group]) -> Iterator[Row]:
        """Rows of all questions of ``groups``, as they come; workers that are there are used again.

        Raises the StreampruneError that a worker met and every other would meet, and ModelError when workers
        die before their model is loaded.
        """
        todo, again = deque(groups), deque[Group]()
        self._started = time.monotonic()
        warm = bool(self._workers) and all(one.ready for one in self._workers)
        self._steady_from = self._started if warm else 0.0
        there = {one.number for one in self._workers}
        for number in range(min(self._most, len(groups))):
            if number not in there:
                self._start(number)
        self.work.workers = len(self._workers)
        for one in self._workers:
            self._feed(one, todo, again)
        left = len(groups)
        while left:
            worker, message = self._inbox.get()
            if worker not in self._workers:
                continue  # said before it was ended
            if message is None:
                for group in self._bury(worker):
                    if group.questions and group.deaths < _MOST_DEATHS:
                        again.append(group)
                        continue
                    left -= 1
                    yield from self._given_up(group, worker)
                if left:
                    self._start(worker.number)
            elif "row" in message:
                worker.answered(message["row"]["id"])
                self.work.questions += 1
                self.work.steady_questions += self._steady_from > 0
                yield message["row"]
            elif "fatal" in message:
                raise error_of(message["fatal"])
            else:
                left -= self._note(worker, message)
            for one in self._workers:
                self._feed(one, todo, again)
            if self._steady_from:
                self.work.steady_seconds = time.monotonic() - self._steady_from

    def _start(self, number: int) -> None:
        self._workers.append(WorkerProcess(number, self._settings, self._threads, self._inbox))

    def _feed(self, worker: WorkerProcess, todo: deque[Group], again: deque[Group]) -> None:
        """Give ``worker`` enough to go on with; alone what may be what its forerunner died of."""
        if not worker.ready or worker.alone:
            return
        if again and not worker.in_flight:
            worker.give(again.popleft(), alone=True)
            return
        most = 2 * self._settings.videos_per_batch
        while todo and (len(worker.in_flight) < 2 or worker.num_questions < most):
            worker.give(todo.popleft())

    def _note(self, worker: WorkerProcess, message: Mapping[str, Any]) -> int:
        """What ``worker`` said about itself; 1 if it is done with a group."""
        if "ready" in message:
            worker.ready, self._early_deaths = True, 0
            if not self._steady_from and all(one.ready for one in self._workers):
                self._steady_from = time.monotonic()
                self.work.load_seconds = self._steady_from - self._started
            return 0
        worker.done(message["done"])
        self.work.videos += 1
        if self._steady_from:
            self.work.steady_videos += 1
            self.work.decode_seconds += message["decode_seconds"]
            self.work.model_seconds += message["model_seconds"]
        return 1

    def _bury(self, worker: WorkerProcess) -> list[Group]:
        """The groups that ``worker`` was at when it died, with one death more; without questions answered."""
        worker.bury()
        self._workers.remove(worker)
        self.work.deaths += 1
        if not worker.ready:
            self._early_deaths += 1
            if self._early_deaths >= _MOST_DEATHS:
                raise ModelError(
                    f"workers end while they load the model {self._settings.model!r} ({worker.last_words}); "
                    "each holds a whole one: give fewer workers if memory is short"
                )
        return [replace(group, deaths=group.deaths + 1) for group in worker.in_flight.values()]

    def _given_up(self, group: Group, worker: WorkerProcess) -> Iterator[Row]:
        self.work.videos += 1
        for asked in group.questions:
            self.work.questions += 1
            error = f"{group.video}: {_MOST_DEATHS} workers died at it, the last {worker.last_words}"
            yield {"id": asked.id, "error": error}


def error_of(told: Mapping[str, str]) -> StreampruneError:
    """What a worker raised, from its kind and message."""
    kind = getattr(streamprune.errors, told["kind"], ModelError)
    error = kind(told["message"])
    return error if isinstance(error, StreampruneError) else ModelError(told["message"])
