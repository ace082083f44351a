"""Standard input or a named pipe as a file for FFmpeg, whose wait for data another thread can end."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from typing import Any


class Pipe:
    """Reads a descriptor until its end, or until `interrupt` is called.

    Python's own standard input will not do: a thread that waits in it holds a lock that the process needs to
    exit.

    Args:
        descriptor: to read; closed with this only if ``own``.
    """

    def __init__(self, descriptor: int, *, own: bool) -> None:
        self._descriptor = descriptor
        self._own = own
        self._woken, self._wake = os.pipe()
        self._lock = threading.Lock()
        self._closed = False

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, as soon as there are some; none at the end."""
        ready, _, _ = select.select([self._descriptor, self._woken], [], [])
        return b"" if self._woken in ready else os.read(self._descriptor, size)

    def interrupt(self) -> None:
        """Make this the end."""
        with self._lock:
            if not self._closed:
                os.write(self._wake, b"x")

    def close(self) -> None:
        """Release what is held; may be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for descriptor in (self._woken, self._wake, *([self._descriptor] if self._own else [])):
                os.close(descriptor)


def open_stdin() -> Any:
    """What standard input is read with; its own object where it has no descriptor or cannot be waited for."""
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return sys.stdin.buffer
    return sys.stdin.buffer if sys.platform == "win32" else Pipe(descriptor, own=False)


def open_named_pipe(path: str) -> Pipe:
    """Open a named pipe, without waiting for somebody to write to it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return Pipe(descriptor, own=True)
