"""From a kept share to a number of tokens."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from streamprune.budget import (
    Budget,
    CacheBudget,
    Rounding,
    largest_common_share,
    read_bytes,
    share_of,
    split_by_weight,
    split_evenly,
    whole_tokens,
)


@pytest.mark.parametrize(
    ("budget", "total", "kept"),
    [
        (Budget(), 7, 7),
        (Budget(keep_ratio=1), 7, 7),
        (Budget(keep_ratio=0.5), 7, 3),
        (Budget(keep_ratio=0.29), 100, 29),
        (Budget(keep_ratio=1e-9), 100, 1),
        (Budget(keep_ratio=0.1), 6272, 627),
        (Budget(keep_ratio=np.float32(0.25)), 8, 2),  # type: ignore[arg-type]
        (Budget(keep_tokens=3), 7, 3),
        (Budget(keep_tokens=30), 7, 7),
        (Budget(keep_tokens=np.int64(3)), 7, 3),  # type: ignore[arg-type]
    ],
)
def test_tokens(budget: Budget, total: int, kept: int) -> None:
    assert budget.tokens(total) == kept


@pytest.mark.parametrize(
    ("rounding", "kept"), [("floor", 29), ("ceil", 29), ("half_even", 29), ("truncate", 28)]
)
def test_a_product_just_below_an_integer(rounding: Rounding, kept: int) -> None:
    assert Budget(keep_ratio=0.29).tokens(100, rounding=rounding) == kept
    assert share_of(100, 0.29, rounding=rounding) == kept


@pytest.mark.parametrize(("rounding", "kept"), [("ceil", 7), ("ceil_product", 8), ("truncate", 7)])
def test_a_product_just_above_an_integer(rounding: Rounding, kept: int) -> None:
    assert share_of(100, 0.07, rounding=rounding) == kept


@pytest.mark.parametrize(
    ("budget", "share"),
    [
        (Budget(), 1.0),
        (Budget(keep_ratio=0.3), 0.3),
        (Budget(keep_tokens=5), 0.25),
        (Budget(keep_tokens=50), 1.0),
    ],
)
def test_share(budget: Budget, share: float) -> None:
    assert budget.share(20) == share


@pytest.mark.parametrize(
    ("rounding", "kept"), [("floor", [2, 3, 4]), ("ceil", [3, 4, 5]), ("half_even", [2, 4, 4])]
)
def test_halves(rounding: Rounding, kept: list[int]) -> None:
    assert [Budget(keep_ratio=0.5).tokens(n, rounding=rounding) for n in (5, 7, 9)] == kept


def test_the_least_is_one_unless_said() -> None:
    assert Budget(keep_ratio=0.01).tokens(10, minimum=4) == 4
    assert Budget(keep_ratio=0.01).tokens(3, minimum=4) == 3
    assert share_of(10, 0.01) == 0


@pytest.mark.parametrize(
    ("budget", "frames", "each"),
    [
        (Budget(keep_ratio=0.1), 32, 19),
        (Budget(keep_ratio=0.001), 32, 1),
        (Budget(keep_tokens=100), 32, 3),
        (Budget(keep_tokens=5), 32, 1),
        (Budget(keep_tokens=10**6), 32, 196),
        (Budget(), 32, 196),
    ],
)
def test_per_frame(budget: Budget, frames: int, each: int) -> None:
    assert budget.per_frame(frames, 196) == each


def test_keeps_all() -> None:
    assert Budget().keeps_all
    assert Budget(keep_ratio=1.0).keeps_all
    assert not Budget(keep_ratio=0.999).keeps_all
    assert not Budget(keep_tokens=10**9).keeps_all


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"keep_ratio": 0}, ValueError, r"keep_ratio must be in \(0, 1\], the share KEPT; got 0"),
        ({"keep_ratio": 1.5}, ValueError, "got 1.5"),
        ({"keep_ratio": -0.5}, ValueError, "got -0.5"),
        ({"keep_ratio": float("nan")}, ValueError, "got nan"),
        ({"keep_ratio": float("inf")}, ValueError, "got inf"),
        ({"keep_ratio": "abc"}, TypeError, "keep_ratio must be a number in .* got 'abc'"),
        ({"keep_ratio": "0.5"}, TypeError, "got '0.5'"),
        ({"keep_ratio": True}, TypeError, "got True"),
        ({"keep_tokens": 0}, ValueError, "keep_tokens must be an integer of at least 1; got 0"),
        ({"keep_tokens": 1.0}, TypeError, "got 1.0"),
        ({"keep_tokens": True}, TypeError, "got True"),
        ({"keep_tokens": "9"}, TypeError, "got '9'"),
        ({"keep_ratio": 0.5, "keep_tokens": 9}, ValueError, "not both"),
    ],
    ids=str,
)
def test_refused(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Budget(**arguments)


@pytest.mark.parametrize(
    ("total", "rooms", "given"),
    [
        (0, [3, 3], [0, 0]),
        (7, [9, 9, 9], [3, 2, 2]),
        (7, [1, 9, 9], [1, 3, 3]),
        (8, [1, 9, 9], [1, 4, 3]),
        (10, [0, 2, 20], [0, 2, 8]),
        (99, [1, 2, 3], [1, 2, 3]),
        (3, [], []),
        (2, [5, 5, 5, 5], [1, 1, 0, 0]),
    ],
)
def test_split_evenly(total: int, rooms: list[int], given: list[int]) -> None:
    assert split_evenly(total, rooms) == given


def test_a_split_never_loses_a_token() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        rooms = generator.integers(0, 12, generator.integers(1, 8)).tolist()
        total = int(generator.integers(0, 60))
        given = split_evenly(total, rooms)
        assert sum(given) == min(total, sum(rooms))
        assert all(0 <= g <= room for g, room in zip(given, rooms, strict=True))
        unfilled = [g for g, room in zip(given, rooms, strict=True) if g < room]
        assert not unfilled or max(given) - min(unfilled) <= 1


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [("floor", [0, 2, 3]), ("truncate", [0, 2, 2]), ("half_even", [0, 2, 3]), ("ceil", [1, 3, 3])],
)
def test_whole_tokens(rounding: Rounding, expected: list[int]) -> None:
    assert [whole_tokens(tokens, rounding=rounding) for tokens in (0.4, 2.5, 2.9999999999)] == expected


@pytest.mark.parametrize(
    ("total", "sizes", "kept"),
    [
        (10, [], []),
        (10, [10], [10]),
        (100, [10, 7], [10, 7]),
        (9, [10], [9]),
        # 19.6 each
        (627, [196] * 32, [19] * 32),
        # a share of 1/2 would give 5 and 2, one too many
        (6, [10, 5], [4, 2]),
        (7, [10, 5], [5, 2]),
        # one each is the least
        (1, [4, 4, 4], [1, 1, 1]),
        (-3, [4, 4], [1, 1]),
    ],
)
def test_the_largest_common_share(total: int, sizes: list[int], kept: list[int]) -> None:
    assert largest_common_share(total, sizes) == kept


@pytest.mark.parametrize("seed", range(5))
def test_no_larger_common_share_fits(seed: int) -> None:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 50, 6).tolist()
    total = int(generator.integers(6, sum(sizes)))
    shares = sorted({Fraction(j, n) for n in sizes for j in range(1, n + 1)})
    fitting = [[max(1, int(n * share)) for n in sizes] for share in shares]
    assert largest_common_share(total, sizes) == [kept for kept in fitting if sum(kept) <= total][-1]


@pytest.mark.parametrize(
    ("total", "weights", "rooms", "given"),
    [
        (10, [0.5, 0.3, 0.2], [9, 9, 9], [5, 3, 2]),
        # the spare token goes to the heaviest place with room
        (10, [0.5, 0.3, 0.2], [4, 4, 4], [4, 4, 2]),
        # two fractions of a half: the first place gets the token
        (10, [0.55, 0.25, 0.2], [9, 9, 9], [6, 2, 2]),
        (10, [11, 5, 4], [9, 9, 9], [6, 2, 2]),
        (9, [0, 1, 0, 0], [9, 4, 9, 9], [2, 4, 2, 1]),
        (7, [0, 0, 0], [3, 3, 3], [3, 2, 2]),
        (7, [-1, 1, 1], [9, 9, 9], [0, 4, 3]),
        (100, [1, 2], [3, 4], [3, 4]),
        (0, [1, 2], [3, 4], [0, 0]),
        (5, [1.0], [9], [5]),
        (1470, [1 / 30] * 30, [196] * 30, [49] * 30),
    ],
    ids=str,
)
def test_split_by_weight(total: int, weights: list[float], rooms: list[int], given: list[int]) -> None:
    assert split_by_weight(total, weights, rooms) == given


def test_split_by_weight_hands_out_one_by_one() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        places = int(generator.integers(1, 9))
        weights = [int(weight) for weight in generator.integers(0, 9, places)]
        rooms = [int(room) for room in generator.integers(0, 12, places)]
        total, whole = int(generator.integers(0, 60)), sum(weights)
        exact = [Fraction(total * w, whole) if whole else Fraction(total, places) for w in weights]
        expected = [math.floor(share) for share in exact]
        for place in sorted(range(places), key=lambda i: expected[i] - exact[i])[: total - sum(expected)]:
            expected[place] += 1
        over = sum(max(0, share - room) for share, room in zip(expected, rooms, strict=True))
        expected = [min(share, room) for share, room in zip(expected, rooms, strict=True)]
        while over and expected != rooms:
            for place in sorted(range(places), key=lambda i: -weights[i]):
                if over and expected[place] < rooms[place]:
                    expected[place] += 1
                    over -= 1
        given = split_by_weight(total, weights, rooms)
        assert sum(given) == min(total, sum(rooms))
        assert given == expected


@pytest.mark.parametrize(
    ("budget", "entries"),
    [
        (CacheBudget(), 100),
        (CacheBudget(keep_ratio=0.29), 29),
        (CacheBudget(keep_ratio=1e-6), 1),
        (CacheBudget(keep_tokens=7), 7),
        (CacheBudget(keep_tokens=700), 700),  # tokens to come may use it up
        (CacheBudget(keep_bytes=4 * 64 * 9 + 255), 9),
    ],
)
def test_cache_entries(budget: CacheBudget, entries: int) -> None:
    assert budget.entries(100, entry_bytes=64, layers=4) == entries


def test_a_cache_budget_is_one_of_three() -> None:
    assert CacheBudget().keeps_all
    assert CacheBudget(keep_ratio=1.0).keeps_all
    assert not CacheBudget(keep_bytes=10**12).keeps_all
    assert CacheBudget(keep_ratio=0.29).exact_entries(150, 64, 4) == pytest.approx(43.5)
    with pytest.raises(
        ValueError, match="keep_bytes=255 holds not even one entry: one takes 64 bytes in each of 4"
    ):
        CacheBudget(keep_bytes=255).entries(100, 64, 4)
    with pytest.raises(ValueError, match="give one of keep_ratio, keep_tokens and keep_bytes"):
        CacheBudget(keep_tokens=5, keep_bytes=5)
    with pytest.raises(TypeError, match="keep_bytes must be an integer"):
        CacheBudget(keep_bytes=1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (8_000_000, 8_000_000),
        ("512", 512),
        ("512 B", 512),
        ("64kB", 64_000),
        ("64KB", 64_000),
        ("64KiB", 65_536),
        ("256MB", 256_000_000),
        ("256 MiB", 268_435_456),
        ("1.5gib", 1_610_612_736),
        ("2G", 2_000_000_000),
    ],
)
def test_sizes_in_bytes(given: Any, size: int) -> None:
    assert read_bytes("memory_bytes", given) == size


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("lots", ValueError, r"memory_bytes must be bytes, e\.g\. 64000000, '64MB' or '64MiB', got 'lots'"),
        ("-5MB", ValueError, "must be bytes"),
        ("5 M B", ValueError, "must be bytes"),
        ("1e9", ValueError, "must be bytes"),
        ("0.1B", ValueError, "memory_bytes must be at least 1, got 0"),
        (0, ValueError, "memory_bytes must be at least 1, got 0"),
        (2.5, TypeError, "memory_bytes must be an integer"),
        (True, TypeError, "memory_bytes must be an integer"),
        (None, TypeError, "memory_bytes must be an integer"),
    ],
)
def test_what_is_no_size_in_bytes(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        read_bytes("memory_bytes", given)
