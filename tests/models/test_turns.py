"""Turns: frames first, nobody starves, the same thread may come again."""

from __future__ import annotations

import threading
import time

from streamprune.models.turns import Turns


def _waiting(turns: Turns, count: int) -> None:
    """Wait until so many threads wait for a turn."""
    while sum(turns._waiting.values()) < count:
        time.sleep(0.001)


def _order(turns: Turns, kinds: list[bool]) -> list[int]:
    """In which order threads come that began to wait one after the other while the lock was held."""
    came: list[int] = []

    def work(number: int, first: bool) -> None:
        with turns.first if first else turns:
            came.append(number)

    threads = [threading.Thread(target=work, args=(number, first)) for number, first in enumerate(kinds)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            _waiting(turns, number + 1)
    for thread in threads:
        thread.join()
    return came


def test_frames_go_before_answers_that_wait_longer() -> None:
    assert _order(Turns(), [False, True])[0] == 1


def test_an_answer_has_a_turn_between_two_frames() -> None:
    came = _order(Turns(), [False, True, True, True])
    assert came.index(0) == 1


def test_its_own_thread_may_take_it_again() -> None:
    turns = Turns()
    with turns, turns.first, turns:
        pass
    assert _order(turns, [True]) == [0]


def test_it_is_free_after_an_error() -> None:
    turns = Turns()
    try:
        with turns.first:
            raise KeyError
    except KeyError:
        pass
    assert _order(turns, [False]) == [0]
