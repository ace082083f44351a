"""Standard input or a named pipe as a file for FFmpeg, whose wait for data another thread can end."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from typing import Any


class Pipe:
    """Reads standard input or a named pipe until its end, or until `interrupt` is called.

    Python's own standard input will not do: a thread that waits in it holds a lock that the process needs to
    exit. Nothing is opened before :meth:`open`.

    Args:
        path: of the named pipe; None for standard input, which is never closed.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._ended = False
        self._descriptors: tuple[int, int, int] | None = None  # to read, and both ends of what wakes it

    def open(self) -> Pipe:
        """Begin, without waiting for somebody who writes; raises OSError. Gives this back."""
        with self._lock:
            if self._path is None:
                descriptor = sys.stdin.fileno()
            else:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
                os.set_blocking(descriptor, True)
            self._descriptors = (descriptor, *os.pipe())
        return self

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, as soon as there are some; none at the end."""
        with self._lock:
            descriptors, ended = self._descriptors, self._ended
        if descriptors is None or ended:
            return b""
        source, woken, _ = descriptors
        ready, _, _ = select.select([source, woken], [], [])
        return b"" if woken in ready else os.read(source, size)

    def interrupt(self) -> None:
        """Make this the end."""
        with self._lock:
            if self._descriptors is not None and not self._ended:
                os.write(self._descriptors[2], b"x")
            self._ended = True

    def close(self) -> None:
        """Release what is held; may be called twice, and only when nobody reads."""
        with self._lock:
            if self._descriptors is not None:
                source, woken, wake = self._descriptors
                for descriptor in (woken, wake, *([] if self._path is None else [source])):
                    os.close(descriptor)
            self._descriptors, self._ended = None, True


def stdin_pipe() -> Any:
    """What standard input is read with; its own object where it has no descriptor or cannot be waited for."""
    try:
        sys.stdin.fileno()
    except (AttributeError, io.UnsupportedOperation):
        return sys.stdin.buffer
    return sys.stdin.buffer if sys.platform == "win32" else Pipe()
