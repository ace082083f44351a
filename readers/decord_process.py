"""The parent's side of the decord process: answers have a deadline, and it never outlives its owner."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np

from streamprune.errors import MissingDependencyError, SourceFormatError, SourceTimeoutError
from streamprune.readers.base import Image

COMMAND = (sys.executable, "-m", "streamprune.readers.decord_child")
CHUNK_BYTES = 2**20


class DecordProcess:
    """A child process that holds one open file.

    Args:
        path: the video file.
        num_threads: decoder threads in the child.
        timeout_seconds: longest wait for one answer; the child is killed when it passes.

    Raises `MissingDependencyError` without decord, `SourceFormatError` if decord cannot read the file.
    """

    def __init__(self, path: Path, num_threads: int, timeout_seconds: float) -> None:
        self._path = path
        self._timeout_seconds = timeout_seconds
        # A session of its own: Ctrl-C reaches the parent alone, which then ends the child.
        self._process = subprocess.Popen(
            [*COMMAND, str(path.absolute()), str(num_threads), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._finalizer = weakref.finalize(self, _end, self._process)
        self._received = bytearray()
        head, _ = self._receive()
        if head.get("missing"):
            self.close()
            raise MissingDependencyError.extra("decord", "decord", 'backend="decord"')
        if "error" in head:
            self.close()
            raise self._refused(head)
        self.num_frames = int(str(head["num_frames"]))

    def frame(self, index: int) -> Image:
        """Decode frame ``index``: uint8 RGB (rows, cols, 3)."""
        stdin = self._process.stdin
        try:
            if stdin is not None:
                stdin.write(f"{index}\n".encode())
                stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise SourceFormatError(f"{self._path}: the decord process has ended") from error
        head, body = self._receive()
        if "error" in head:
            raise self._refused(head)
        return np.frombuffer(body, np.uint8).reshape(int(str(head["rows"])), int(str(head["cols"])), 3)

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._finalizer()

    def _refused(self, head: dict[str, object]) -> SourceFormatError:
        return SourceFormatError(f'{self._path}: decord cannot read it ({head["error"]}); use backend="pyav"')

    def _receive(self) -> tuple[dict[str, object], bytes]:
        deadline = time.monotonic() + self._timeout_seconds
        try:
            while (line_end := self._received.find(b"\n")) < 0:
                self._read(deadline)
            head: dict[str, object] = json.loads(self._received[:line_end])
            del self._received[: line_end + 1]
            num_bytes = int(str(head["num_bytes"]))
            while len(self._received) < num_bytes:
                self._read(deadline)
        except BaseException:
            self.close()
            raise
        body = bytes(self._received[:num_bytes])
        del self._received[:num_bytes]
        return head, body

    def _read(self, deadline: float) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise SourceTimeoutError(
                f"{self._path}: decord gave no answer in {self._timeout_seconds:g} s and was stopped; "
                'use backend="pyav", or raise timeout_seconds'
            )
        chunk = os.read(stdout.fileno(), CHUNK_BYTES)
        if not chunk:
            raise SourceFormatError(f'{self._path}: decord crashed on this file; use backend="pyav"')
        self._received += chunk


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except BrokenPipeError:  # a request the child never read
                continue
