"""The parent's side of one worker process of a batch."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import IO, Any, TypeAlias

from streamprune.pipelines.batch_settings import BatchSettings, Group

COMMAND = (sys.executable, "-m", "streamprune.pipelines.batch_worker")
_END_SECONDS = 5.0
# of what a worker wrote on stderr, looked at for its last words
_TAIL_BYTES = 4096


class WorkerProcess:
    """One process with a loaded model, see :mod:`streamprune.pipelines.batch_worker`.

    Args:
        number: its place among the workers.
        settings: how it answers.
        threads: of torch and of the decoder; None leaves both as they are.
        inbox: gets this worker with each of its messages, and with None once it has ended.

    Attributes:
        ready: its model is loaded.
        alone: what it is at may be what another worker died of.
        in_flight: groups that it was given, with the questions that it has not answered.
        last_words: how it ended, and the last line that it wrote before.
    """

    def __init__(
        self, number: int, settings: BatchSettings, threads: int | None, inbox: queue.SimpleQueue[Message]
    ) -> None:
        self.number = number
        self.ready = self.alone = False
        self.in_flight: dict[int, Group] = {}
        self.last_words = ""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        bound = {} if threads is None else dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        # A session of its own: Ctrl-C reaches the parent alone, which then ends the workers.
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | bound,
            start_new_session=True,
        )
        self._listener = threading.Thread(
            target=self._listen, args=(self._process.stdout, inbox), name="streamprune-listen", daemon=True
        )
        self._listener.start()
        self._send({"settings": settings.to_plain(), "number": number, "threads": threads})

    @property
    def num_questions(self) -> int:
        """That it was given and has not answered."""
        return sum(len(group.questions) for group in self.in_flight.values())

    def give(self, group: Group, *, alone: bool = False) -> None:
        """Have it answer ``group``."""
        self.in_flight[group.number], self.alone = group, alone
        self._send(group.to_plain())

    def answered(self, question_id: str) -> None:
        """It answered this question."""
        for number, group in self.in_flight.items():
            left = tuple(asked for asked in group.questions if asked.id != question_id)
            if len(left) < len(group.questions):
                self.in_flight[number] = replace(group, questions=left)
                return

    def done(self, number: int) -> None:
        """It is through with a group."""
        del self.in_flight[number]
        self.alone = False

    def bury(self) -> None:
        """Let go of a process that has ended; one that has only gone silent is ended."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self.end()

    def end(self) -> None:
        """End the process, whatever it is doing, and let go of all it had; ending twice is harmless."""
        if self._stderr.closed:
            return
        self._process.kill()  # nothing happens to one that has ended
        code = self._process.wait()
        self._listener.join()
        self.last_words = _told(code, self._tail())
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            with suppress(BrokenPipeError):  # a request that it never read
                if pipe is not None:
                    pipe.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # it has ended, as the listener says
            if self._process.stdin is not None:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()

    def _listen(self, answers: IO[bytes], inbox: queue.SimpleQueue[Message]) -> None:
        for line in answers:
            if line.endswith(b"\n"):  # not one that death cut off
                inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def _tail(self) -> str:
        """The last line on stderr."""
        end = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, end - _TAIL_BYTES))
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _told(code: int, last_line: str) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"of {name}{hint}"
    return f"with exit code {code}" + (f": {last_line}" if last_line else "")


Message: TypeAlias = tuple[WorkerProcess, Any]
