"""Pairs taken in turn, and how sure the median of their ratios is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.metrics.paired import Effort, Steps, alone, in_turn, median_interval, paired_runs


def test_an_interval_is_made_of_values_of_the_right_rank() -> None:
    values = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]
    found = median_interval(values)
    assert (found.median, found.low, found.high, found.count) == (5.0, 2.0, 8.0, 9)
    # 1 - 2 * P(at most one head in nine throws)
    assert found.confidence == pytest.approx(1 - 2 * 10 / 512)


@pytest.mark.parametrize("number", range(1, 41))
def test_an_interval_contains_the_median_and_is_as_narrow_as_it_may_be(number: int) -> None:
    values = [float(value) for value in range(number)]
    found = median_interval(values)
    assert found.low <= found.median <= found.high
    rank = int(found.low) + 1
    outside = sum(math.comb(number, heads) for heads in range(rank)) / 2**number
    assert found.confidence == pytest.approx(max(0.0, 1 - 2 * outside))
    if number >= 6:
        assert found.confidence >= 0.95
        inner = outside + math.comb(number, rank) / 2**number
        assert 1 - 2 * inner < 0.95
    else:
        assert (found.low, found.high) == (0.0, number - 1.0)


def test_an_interval_holds_the_true_median_as_often_as_it_says() -> None:
    draws = np.random.default_rng(3).exponential(size=(2000, 12))
    found = [median_interval(row) for row in draws.tolist()]
    hit = sum(one.low <= math.log(2) <= one.high for one in found) / len(found)
    assert hit == pytest.approx(found[0].confidence, abs=0.015)


def test_no_values_have_no_median() -> None:
    with pytest.raises(InvalidValueError, match="values must hold"):
        median_interval([])


def _run(calls: list[str], name: str) -> Callable[[], Steps[str]]:
    def run() -> Steps[str]:
        calls.append(f"{name}-sees")
        yield
        calls.append(f"{name}-says")
        return f"{name}{len(calls)}"

    return run


def test_stock_and_candidates_take_turns_and_turn_round() -> None:
    calls: list[str] = []
    candidates = {"a": _run(calls, "a"), "b": _run(calls, "b")}
    effort = Effort(repeats=2, seconds=0)
    rounds = list(paired_runs(_run(calls, "s"), candidates, effort, lambda pairs: 1.0, lambda: 0.0))
    assert calls[:6] == ["s-sees", "s-says", "a-sees", "a-says", "b-sees", "b-says"]  # to warm up
    assert calls[6:14] == [
        "s-sees", "a-sees", "a-says", "s-says",
        "s-sees", "b-sees", "b-says", "s-says",
    ]  # fmt: skip
    assert calls[14:] == [
        "a-sees", "s-sees", "s-says", "a-says",
        "b-sees", "s-sees", "s-says", "b-says",
    ]  # fmt: skip
    assert len(rounds) == 2
    # stock comes first in a pair, whoever went first, and the warm-up is in none
    assert rounds[-1].of == {"a": [("s10", "a9"), ("s17", "a18")], "b": [("s14", "b13"), ("s21", "b22")]}


def test_steps_are_taken_in_turn_whoever_has_more() -> None:
    calls: list[str] = []

    def steps(name: str, number: int) -> Steps[str]:
        for step in range(number):
            calls.append(f"{name}{step}")
            yield
        return name

    assert in_turn(steps("a", 3), steps("b", 1)) == ("a", "b")
    assert calls == ["a0", "b0", "a1", "a2"]
    assert alone(steps("c", 2)) == "c"
    # what cannot be taken apart goes one after the other
    assert in_turn(steps("d", 0), steps("e", 0)) == ("d", "e")


def _rounds(effort: Effort, widths: Sequence[float]) -> int:
    def widest(pairs: Sequence[tuple[float, float]]) -> float:
        return widths[len(pairs) - 1]

    def steps() -> Steps[float]:
        yield
        return 1.0

    clock = count(0.0, 1.0)  # a second passes whenever somebody looks
    *_, last = paired_runs(steps, {"a": steps}, effort, widest, lambda: next(clock))
    return len(last.of["a"])


def test_pairs_are_taken_until_the_interval_is_narrow() -> None:
    assert _rounds(Effort(repeats=2, seconds=100, width=0.02), [0.0, 0.1, 0.05, 0.02, 0.0]) == 4


def test_pairs_are_taken_until_time_is_up_but_never_too_few() -> None:
    assert _rounds(Effort(repeats=2, seconds=4, width=0.02), [1.0] * 9) == 5
    assert _rounds(Effort(repeats=3, seconds=0, width=0.02), [1.0] * 9) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"seconds": -1.0}, "max_seconds must be in"),
        ({"seconds": math.nan}, "max_seconds must be in"),
        ({"width": 2.0}, "precision must be in"),
    ],
)
def test_impossible_effort_is_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises((InvalidValueError, InvalidTypeError), match=said):
        Effort(**settings)  # type: ignore[arg-type]
