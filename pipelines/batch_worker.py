"""The process that answers questions of a batch: ``python -m streamprune.pipelines.batch_worker``.

Lines of JSON come on stdin: first how to answer, then groups of questions. Lines of JSON go to stdout:
{"ready": ...} once the model is there, {"row": ...} for every question, {"done": ...} behind the rows of a
group, {"fatal": ...} when no question can be answered. It ends with its stdin, so it never outlives its
parent; what it was doing is then lost, and nobody has been told that it was done.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any

from streamprune.errors import StreampruneError
from streamprune.pipelines.batch_settings import BatchSettings, Group


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the libraries print must not mix with the answers
    requests = sys.stdin.buffer
    first = requests.readline()
    if not first:
        return
    try:
        _Worker(requests, answers).work(json.loads(first))
    except StreampruneError as error:
        _say(answers, {"fatal": {"kind": type(error).__name__, "message": str(error)}})
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # other threads may be inside the model, where nothing can end them in good order
    os._exit(0)


class _Worker:
    """One thread reads requests, one decodes and encodes the next videos, the caller's answers."""

    def __init__(self, requests: IO[bytes], answers: IO[str]) -> None:
        self._requests, self._answers = requests, answers
        self._received = self._taken = 0
        self._groups: queue.SimpleQueue[Group] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work(self, start: Mapping[str, Any]) -> None:
        """Load the model, then answer what comes."""
        threading.Thread(target=self._read, name="streamprune-requests", daemon=True).start()
        settings = BatchSettings.from_plain(start["settings"])
        self._most = settings.videos_per_batch
        asker = loaded(settings, start["number"], start["threads"])
        _say(self._answers, {"ready": True})
        self._room = threading.Semaphore(self._most)
        threading.Thread(target=self._encode, args=(asker,), name="streamprune-encode", daemon=True).start()
        while True:
            batch = [self._take()]
            while (
                sum(len(one.group.questions) for one in batch) < self._most and self._received > self._taken
            ):
                batch.append(self._take())
            for row in asker.answer(batch):
                _say(self._answers, {"row": row})
            for one in batch:
                seconds = {"decode_seconds": one.decode_seconds, "model_seconds": one.model_seconds}
                _say(self._answers, {"done": one.group.number, **seconds})

    def _read(self) -> None:
        for line in self._requests:
            self._received += 1
            self._groups.put(Group.from_plain(json.loads(line)))
        os._exit(0)  # nobody is there any more to hear the answers

    def _encode(self, asker: Any) -> None:
        """Encode ahead, not more videos than can be answered at once."""
        try:
            while True:
                group = self._groups.get()
                self._room.acquire()
                self._ready.put(asker.encode(group))
        except BaseException as error:  # raised again by the thread that answers
            self._ready.put(error)

    def _take(self) -> Any:
        ready = self._ready.get()
        if isinstance(ready, BaseException):
            raise ready
        self._taken += 1
        self._room.release()
        return ready


def loaded(settings: BatchSettings, number: int, threads: int | None) -> Any:
    """The loaded model; workers of a machine with several CUDA devices share them evenly."""
    import torch

    from streamprune.pipelines.batch_asking import GroupAsker

    if threads is not None:
        torch.set_num_threads(threads)
    if settings.device in (None, "cuda") and torch.cuda.device_count() > 1:
        settings = replace(settings, device=f"cuda:{number % torch.cuda.device_count()}")
    return GroupAsker(settings, threads)


def _say(answers: IO[str], message: Mapping[str, Any]) -> None:
    try:
        answers.write(json.dumps(message) + "\n")
        answers.flush()
    except OSError:
        os._exit(0)  # nobody is there any more to hear it


if __name__ == "__main__":
    main()
