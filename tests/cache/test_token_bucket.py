"""The token bucket: never more than was earned, over any stretch of time, whatever is asked and when."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest

from streamprune.cache.token_bucket import TokenBucket

RATES: list[float | Fraction] = [Fraction(1, 3), 7, 12.5, 0.1, 400]


def seconds_of(generator: random.Random, frames: int) -> list[float]:
    """Times that mostly go on, now and then stand still or leap."""
    steps = [generator.choice([0.0, 1 / 30, 0.1, 0.5, generator.random(), 7.3]) for _ in range(frames)]
    return list(accumulate(steps))


def grants(bucket: TokenBucket, times: list[float], wanted: list[int]) -> list[int]:
    return [bucket.grant(time, tokens) for time, tokens in zip(times, wanted, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_no_stretch_gets_more_than_it_earned_and_what_was_saved(seed: int) -> None:
    generator = random.Random(seed)
    rate: float | Fraction = generator.choice(RATES)
    floor = generator.choice([0, 1, 5])
    cap = generator.choice([None, floor + 1, 64])
    capacity = generator.choice([None, 64, 300])
    bucket = TokenBucket(rate, floor, cap, capacity)
    times = seconds_of(generator, 150)
    wanted = [generator.choice([0, 3, 64, 10_000]) for _ in times]
    got = grants(bucket, times, wanted)
    exact = [round(Fraction(time) * 10**9) for time in times]
    for first in range(len(times)):
        spent = 0
        for last in range(first, len(times)):
            spent += got[last]
            earned = Fraction(rate) * Fraction(exact[last] - exact[first], 10**9)
            assert spent <= earned + bucket.capacity
    for one, asked in zip(got, wanted, strict=True):
        assert 0 <= one <= max(asked, floor)
        assert cap is None or one <= cap


def test_quiet_times_save_for_busy_ones() -> None:
    bucket = TokenBucket(10, floor=2, cap=36, capacity=60)
    times = [0.5 * frame for frame in range(40)]
    wanted = [0] * 20 + [36] * 20
    got = grants(bucket, times, wanted)
    assert got[:20] == [2] * 20
    assert got[20:22] == [36, 29], "what was saved, then what is left of it and half a second"
    assert got[22:] == [5] * 18, "ten a second from then on"


def test_the_floor_is_given_as_long_as_it_is_earned() -> None:
    bucket = TokenBucket(8, floor=4, cap=36, capacity=36)
    got = grants(bucket, [0.5 * frame for frame in range(30)], [36, 0] * 15)
    assert min(got) == 4
    fast = grants(TokenBucket(8, floor=4, capacity=4), [0.125 * frame for frame in range(20)], [0] * 20)
    assert fast == [4] + [1] * 19, "four times too fast a stream gets a quarter of it"


def test_thirds_of_a_token_are_not_lost() -> None:
    bucket = TokenBucket(Fraction(1, 3), capacity=1)
    got = grants(bucket, [float(second) for second in range(301)], [1] * 301)
    assert sum(got) == 101
    assert got[:7] == [1, 0, 0, 1, 0, 0, 1]


def test_a_clock_that_jumps_back_earns_nothing_and_goes_on() -> None:
    bucket = TokenBucket(10, capacity=20)
    assert grants(bucket, [1000.0, 0.0, 0.0, 1000.0], [20, 20, 20, 0]) == [20, 0, 0, 0]
    bucket = TokenBucket(10, capacity=20)
    assert grants(bucket, [1000.0, 0.0, 1.0, 1.5], [20, 20, 20, 20]) == [20, 0, 10, 5]


def test_what_is_not_used_can_be_given_back() -> None:
    bucket = TokenBucket(1, capacity=10)
    assert bucket.grant(0, 8) == 8
    bucket.give_back(3)
    assert bucket.saved == 5
    bucket.give_back(100)
    assert bucket.saved == 10


@pytest.mark.parametrize("rate", [Fraction(22, 7), 0.1, 25])
def test_state_goes_on_alike(rate: float | Fraction) -> None:
    generator = random.Random(5)
    bucket, other = TokenBucket(rate, 1, 9, 30), TokenBucket(rate, 1, 9, 30)
    times = seconds_of(generator, 60)
    wanted = [generator.randrange(12) for _ in times]
    grants(bucket, times[:30], wanted[:30])
    tensors, about = bucket.state()
    other.restore(tensors, json.loads(json.dumps(about)))
    assert grants(bucket, times[30:], wanted[30:]) == grants(other, times[30:], wanted[30:])
    bucket.reset()
    assert grants(bucket, times, wanted) == grants(TokenBucket(rate, 1, 9, 30), times, wanted)


def test_a_smaller_bucket_takes_over_what_it_holds() -> None:
    small = TokenBucket(3, capacity=5)
    small.restore(*TokenBucket(3, capacity=50).state())
    assert small.saved == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens_per_second": 0}, "tokens_per_second must be a finite number above 0"),
        ({"tokens_per_second": float("nan")}, "tokens_per_second must be a finite number above 0"),
        ({"tokens_per_second": "9"}, "tokens_per_second must be a number above 0"),
        ({"floor": -1}, "floor must be at least 0"),
        ({"cap": 0}, "cap must be at least 1"),
        ({"floor": 5, "cap": 4}, "cap=4 must be at least floor=5"),
        ({"cap": 9, "capacity": 8}, "capacity=8 must be at least cap=9"),
        ({"floor": 9, "capacity": 8}, "capacity=8 must be at least floor=9"),
        ({"capacity": 2.5}, "capacity must be an integer"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TokenBucket(**{"tokens_per_second": 1, **options})


@pytest.mark.parametrize(
    ("pts_seconds", "wanted", "said"),
    [
        (float("inf"), 1, "pts_seconds must be finite"),
        (None, 1, "pts_seconds must be a number"),
        (0.0, -1, "wanted must be at least 0"),
        (0.0, 0.5, "wanted must be an integer"),
    ],
)
def test_what_cannot_be_granted_is_refused(pts_seconds: Any, wanted: Any, said: str) -> None:
    bucket = TokenBucket(1)
    with pytest.raises(ValueError, match=said):
        bucket.grant(pts_seconds, wanted)
    assert bucket.saved == bucket.capacity == 10
