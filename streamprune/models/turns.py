"""Whose turn it is to use a model: frames that arrive go before answers, and neither starves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that its thread may take again, with a way to go before others: ``with turns.first:``.

    Whoever holds it for long gives way from time to time by letting go. Of those that wait, the ones that go
    first get the next turn; but after such a turn one of the others, if any waits, has one in between.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._owner: int | None = None
        self._depth = 0
        self._waiting = {True: 0, False: 0}
        self._others_next = False

    def __enter__(self) -> None:
        self._acquire(first=False)

    def __exit__(self, *exception: object) -> None:
        self._release(first=False)

    @property
    @contextmanager
    def first(self) -> Iterator[None]:
        """The lock, before those that take it without this."""
        self._acquire(first=True)
        try:
            yield
        finally:
            self._release(first=True)

    def _acquire(self, *, first: bool) -> None:
        me = threading.get_ident()
        with self._changed:
            if self._owner == me:
                self._depth += 1
                return
            self._waiting[first] += 1
            try:
                while not self._may_go(first):
                    self._changed.wait()
            finally:
                self._waiting[first] -= 1
                self._changed.notify_all()
            self._owner, self._depth = me, 1
            if not first:
                self._others_next = False

    def _may_go(self, first: bool) -> bool:
        if self._owner is not None:
            return False
        if first:
            return not (self._others_next and self._waiting[False])
        return self._others_next or not self._waiting[True]

    def _release(self, *, first: bool) -> None:
        with self._changed:
            self._depth -= 1
            if self._depth:
                return
            self._owner = None
            self._others_next = first
            self._changed.notify_all()
