"""Ratios of things measured in turn: who goes first, how often, and how sure the median is."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError

Run = TypeVar("Run")
# does its work step by step, so that two of them can take turns, and returns what it measured
Steps = Generator[None, None, Run]
# of what a wide interval is made of: this share of all series holds the true median
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """The median of values, and where the true one lies.

    Attributes:
        low, high: two of the values, by their rank.
        confidence: how sure that is, at least 0.95 from six values on; below, ``low`` and ``high`` are the
            least and the greatest value.
        count: of values.
    """

    median: float
    low: float
    high: float
    confidence: float
    count: int

    @property
    def width(self) -> float:
        """Half of what lies between the ends, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else math.inf


def median_interval(values: Sequence[float]) -> Interval:
    """The median with the interval of the sign test, which supposes nothing about the distribution.

    Of n sorted values the k-th from below and from above enclose the true median unless fewer than k of
    them fall on one side of it: with the probability that n throws of a coin show fewer than k heads, twice.
    """
    if not values:
        raise InvalidValueError("values must hold at least one number")
    ordered, count = sorted(values), len(values)
    outside = 0.5**count  # probability of fewer than `rank` on one side
    rank = 1
    while rank < (count + 1) // 2:
        wider = outside + math.comb(count, rank) * 0.5**count
        if 2 * wider > 1 - _CONFIDENCE:
            break
        outside, rank = wider, rank + 1
    return Interval(
        statistics.median(ordered), ordered[rank - 1], ordered[-rank], max(0.0, 1 - 2 * outside), count
    )


@dataclass(frozen=True)
class Effort:
    """How long pairs are taken.

    Attributes:
        repeats: pairs at least.
        seconds: no pair beyond those begins after so much time.
        width: intervals narrower than this, see :attr:`Interval.width`, are narrow enough.
    """

    repeats: int = 6
    seconds: float = 300.0
    width: float = 0.02

    def __post_init__(self) -> None:
        check_count("repeats", self.repeats)
        check_number("max_seconds", self.seconds, 0, math.inf)
        check_number("precision", self.width, 0, 1)


@dataclass
class Pairs(Generic[Run]):
    """What was measured so far: of each candidate runs of the stock thing and of itself, side by side."""

    of: dict[str, list[tuple[Run, Run]]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


def alone(steps: Steps[Run]) -> Run:
    """All steps, one after the other."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            measured: Run = end.value
            return measured


def in_turn(first: Steps[Run], second: Steps[Run]) -> tuple[Run, Run]:
    """Step by step, so that what is compared lies close together; who went last goes first next."""
    waiting = [(0, first), (1, second)]
    measured: dict[int, Run] = {}
    while waiting:
        left: list[tuple[int, Steps[Run]]] = []
        for number, steps in waiting:
            try:
                next(steps)
                left.insert(0, (number, steps))
            except StopIteration as end:
                measured[number] = end.value
        waiting = left
    return measured[0], measured[1]


def paired_runs(
    stock: Callable[[], Steps[Run]],
    candidates: Mapping[str, Callable[[], Steps[Run]]],
    effort: Effort,
    widest: Callable[[Sequence[tuple[Run, Run]]], float],
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Pairs[Run]]:
    """Run every candidate beside ``stock``, and yield what there is after each round.

    Once each to warm up. Then in rounds: in every round a pair of each candidate that is not done, stock
    first in one round and the candidate first in the next, so that what grows steadily over time cancels.

    Args:
        candidates: by name.
        widest: of the intervals that matter, for the pairs so far.
        now: seconds.
    """
    for run in (stock, *candidates.values()):
        alone(run())
    pairs: Pairs[Run] = Pairs({name: [] for name in candidates})
    started, rounds = now(), 0
    while len(pairs.done) < len(candidates):
        for name, run in candidates.items():
            if name in pairs.done:
                continue
            if rounds % 2:
                measured, plain = in_turn(run(), stock())
            else:
                plain, measured = in_turn(stock(), run())
            taken = pairs.of[name]
            taken.append((plain, measured))
            enough = len(taken) >= effort.repeats
            if enough and (now() - started >= effort.seconds or widest(taken) <= effort.width):
                pairs.done.add(name)
        rounds += 1
        yield pairs
