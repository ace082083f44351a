"""Lines of standard input, read by a thread beside everything else; what is being typed can be shown."""

from __future__ import annotations

import codecs
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamprune.readers.pipe import Pipe

_READ_BYTES = 4096
_ENTER, _END, _RUB_OUT, _RUB_ALL = "\r\n", "\x04", "\x7f\b", "\x15"


class TypedLines:
    """Reads lines until the input ends or this is closed.

    Args:
        read: gives the next bytes; none at the end.
        interrupt: ends a ``read`` that waits; None if that cannot be done.
        keys: every key comes by itself, so that rubbing out is done here; otherwise whole lines come.
    """

    def __init__(
        self, read: Callable[[int], bytes], interrupt: Callable[[], None] | None = None, *, keys: bool = False
    ) -> None:
        self.draft = ""  # what is being typed
        self.ended = False
        self._read, self._interrupt, self._keys = read, interrupt, keys
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        # a daemon: where it cannot be interrupted it must not hold the exit up
        self._thread = threading.Thread(target=self._run, name="streamprune typed lines", daemon=True)
        self._thread.start()

    def take(self) -> Iterator[str]:
        """The lines that were finished since the last call, without empty ones."""
        while True:
            try:
                line = self._lines.get_nowait().strip()
            except queue.Empty:
                return
            if line:
                yield line

    def close(self) -> None:
        """End the thread."""
        if self._interrupt is not None:
            self._interrupt()
            self._thread.join()

    def _run(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        while data := self._read(_READ_BYTES):
            for letter in decoder.decode(data):
                if self._keys and letter == _END:
                    self.ended = True
                    return
                self._type(letter)
        if self.draft:
            self._lines.put(self.draft)
        self.draft = ""
        self.ended = True

    def _type(self, letter: str) -> None:
        if letter in _ENTER:
            self._lines.put(self.draft)
            self.draft = ""
        elif self._keys and letter in _RUB_OUT:
            self.draft = self.draft[:-1]
        elif self._keys and letter in _RUB_ALL:
            self.draft = ""
        elif letter.isprintable():
            self.draft += letter


@contextmanager
def typed_lines(*, by_key: bool) -> Iterator[TypedLines]:
    """What is typed on standard input, ``by_key`` if that is a terminal whose echo would be in the way."""
    from streamprune.readers.pipe import Pipe, stdin_pipe

    source = stdin_pipe()
    if not isinstance(source, Pipe):
        yield TypedLines(lambda size: bytes(source.readline(size)))
        return
    source.open()
    with _one_key_at_a_time(by_key) as keys:
        typed = TypedLines(_waiting_out(source), source.interrupt, keys=keys)
        try:
            yield typed
        finally:
            typed.close()
            source.close()


def _waiting_out(source: Pipe) -> Callable[[int], bytes]:
    """Reads ``source``; a terminal that cannot be read any more has ended."""

    def read(size: int) -> bytes:
        try:
            return source.read(size)
        except OSError:
            return b""

    return read


@contextmanager
def _one_key_at_a_time(wanted: bool) -> Iterator[bool]:
    """Let the terminal give every key at once and show none; whether it does."""
    if not wanted or sys.platform == "win32" or not os.isatty(sys.stdin.fileno()):
        yield False
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
