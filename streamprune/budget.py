"""The only place where a kept share becomes a number of tokens, and "256MB" a number of bytes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Literal

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError

# "truncate" and "ceil_product" are int() and math.ceil() of the float product, as released code writes them:
# int(0.29 * 100) is 28 and math.ceil(0.07 * 100) is 8
Rounding = Literal["floor", "half_even", "ceil", "truncate", "ceil_product"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

# everywhere else a product this close to an integer is meant to be that integer
_SLACK = 1e-9


@dataclass(frozen=True)
class Budget:
    """How much may stay: a kept share or a number of tokens, never both.

    Args:
        keep_ratio: share of the tokens that is KEPT, in (0, 1].
        keep_tokens: number of tokens kept, at least 1; more than exist means all of them.

    Neither given means everything is kept. Raises InvalidValueError (a ValueError) or InvalidTypeError
    (a TypeError) for anything else.
    """

    keep_ratio: float | None = None
    keep_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.keep_ratio is not None and self.keep_tokens is not None:
            raise InvalidValueError(
                f"give keep_ratio or keep_tokens, not both (got keep_ratio={self.keep_ratio!r} and "
                f"keep_tokens={self.keep_tokens!r})"
            )
        if self.keep_ratio is not None:
            _check_ratio(self.keep_ratio)
        if self.keep_tokens is not None:
            _check_count(self.keep_tokens)

    @property
    def is_given(self) -> bool:
        """Whether a ratio or a count was given, even one that keeps everything."""
        return self.keep_ratio is not None or self.keep_tokens is not None

    @property
    def keeps_all(self) -> bool:
        """Whether every token stays whatever their number."""
        return self.keep_tokens is None and (self.keep_ratio is None or self.keep_ratio == 1)

    def tokens(self, total_tokens: int, *, rounding: Rounding = "floor", minimum: int = 1) -> int:
        """Tokens kept out of ``total_tokens``: never more than exist, never less than ``minimum``."""
        if self.keep_tokens is not None:
            wanted = self.keep_tokens
        else:
            wanted = _round(total_tokens * (1.0 if self.keep_ratio is None else self.keep_ratio), rounding)
        return min(total_tokens, max(minimum, wanted))

    def share(self, total_tokens: int) -> float:
        """The share of ``total_tokens`` that is kept, in (0, 1], for methods that compute with shares."""
        if self.keep_tokens is not None:
            return min(1.0, self.keep_tokens / total_tokens)
        return 1.0 if self.keep_ratio is None else self.keep_ratio

    def per_frame(self, frames: int, tokens_per_frame: int, *, rounding: Rounding = "floor") -> int:
        """Tokens kept of every frame when each frame gets the same: at least 1.

        A ratio is applied to one frame, a count is divided by ``frames`` and rounded down, so that the
        whole never exceeds it (except that each frame keeps one token).
        """
        if self.keep_tokens is not None:
            return min(tokens_per_frame, max(1, self.keep_tokens // frames))
        return self.tokens(tokens_per_frame, rounding=rounding)


@dataclass(frozen=True)
class CacheBudget:
    """How much of a key-value cache may stay: a kept share, a number of entries, or bytes; at most one.

    Args:
        keep_ratio: share of the tokens seen whose entries are KEPT, in (0, 1].
        keep_tokens: entries kept per layer and head, at least 1.
        keep_bytes: bytes that all layers together may hold, at least 1.

    None given means everything is kept. Raises InvalidValueError or InvalidTypeError for anything else.
    """

    keep_ratio: float | None = None
    keep_tokens: int | None = None
    keep_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.keep_bytes is not None:
            if self.keep_ratio is not None or self.keep_tokens is not None:
                raise InvalidValueError(
                    "give one of keep_ratio, keep_tokens and keep_bytes, "
                    f"got {self.keep_ratio!r}, {self.keep_tokens!r} and {self.keep_bytes!r}"
                )
            check_count("keep_bytes", self.keep_bytes)
        Budget(self.keep_ratio, self.keep_tokens)

    @property
    def keeps_all(self) -> bool:
        """Whether every entry stays however many there are."""
        return self.keep_bytes is None and Budget(self.keep_ratio, self.keep_tokens).keeps_all

    def entries(self, seen_tokens: int, entry_bytes: int, layers: int) -> int:
        """Entries that each of ``layers`` may hold after ``seen_tokens``, at least 1; maybe more than came.

        Args:
            entry_bytes: what one entry of every row and head of a layer takes together.
        """
        return max(1, _round(self.exact_entries(seen_tokens, entry_bytes, layers), "floor"))

    def exact_entries(self, seen_tokens: int, entry_bytes: int, layers: int) -> float:
        """:meth:`entries` before rounding, for methods that share a fraction out over the layers."""
        if self.keep_bytes is not None:
            if self.keep_bytes < layers * entry_bytes:
                raise InvalidValueError(
                    f"keep_bytes={self.keep_bytes} holds not even one entry: one takes {entry_bytes} bytes "
                    f"in each of {layers} layers"
                )
            return self.keep_bytes // (layers * entry_bytes)
        if self.keep_tokens is not None:
            return self.keep_tokens
        return seen_tokens * (1.0 if self.keep_ratio is None else self.keep_ratio)


def share_of(total_tokens: int, share: float, *, rounding: Rounding = "floor") -> int:
    """Tokens in ``share`` (0 to 1) of ``total_tokens``; may be 0. For the splits inside a method's budget."""
    return _round(total_tokens * share, rounding)


def whole_tokens(tokens: float, *, rounding: Rounding = "floor") -> int:
    """An already computed, fractional number of tokens as an integer; may be 0."""
    return _round(tokens, rounding)


def read_bytes(name: str, value: object, *, least: int = 1) -> int:
    """A number of bytes, given as one or as text: "256MB" is 256 million, "256MiB" 256 times 2**20.

    Raises InvalidTypeError, or InvalidValueError for what is no size or below ``least``.
    """
    if not isinstance(value, str):
        check_count(name, value, least=least)
        return int(value)  # type: ignore[call-overload, no-any-return]
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise InvalidValueError(f"{name} must be bytes, e.g. 64000000, '64MB' or '64MiB', got {value!r}")
    unit = (found[2] or "").lower()
    size = Fraction(found[1]) * (1024 if unit.endswith("i") else 1000) ** _POWERS[unit[:1]]
    check_count(name, int(size), least=least)
    return int(size)


def split_evenly(total: int, rooms: Sequence[int]) -> list[int]:
    """Share ``total`` out over places that can hold ``rooms[i]`` each.

    As even as the rooms allow; what does not divide goes to the first places with room, one each. Less than
    ``total`` is shared out only when the rooms are full.
    """
    given = [0] * len(rooms)
    while (left := min(total, sum(rooms)) - sum(given)) > 0:
        free = [place for place, room in enumerate(rooms) if given[place] < room]
        each = max(1, left // len(free))
        for place in free[:left]:
            given[place] += min(each, rooms[place] - given[place])
    return given


def split_by_weight(total: int, weights: Sequence[float], rooms: Sequence[int]) -> list[int]:
    """Share ``total`` out in proportion to ``weights`` over places that can hold ``rooms[i]`` each.

    Shares are rounded down and what is left goes, one each, to the largest fractions (of equal ones, the
    first). What a place has no room for goes, one by one, round after round, to the others with room, the
    heaviest first. Weights below 0 count as 0; when all are 0 the places are equal.
    """
    weights = [max(0.0, weight) for weight in weights]
    whole = sum(weights)
    exact = [total * weight / whole if whole > 0 else total / len(weights) for weight in weights]
    given = [_round(share, "floor") for share in exact]
    # fractions that differ by rounding errors only are equal
    by_fraction = sorted(range(len(exact)), key=lambda place: round(given[place] - exact[place], 9))
    for place in by_fraction[: total - sum(given)]:
        given[place] += 1
    given = [min(share, room) for share, room in zip(given, rooms, strict=True)]
    heaviest_first = sorted(range(len(weights)), key=lambda place: -weights[place])
    while (left := min(total, sum(rooms)) - sum(given)) > 0:
        free = [place for place in heaviest_first if given[place] < rooms[place]]
        rounds = max(1, min(left // len(free), min(rooms[place] - given[place] for place in free)))
        for place in free[:left]:
            given[place] += rounds
    return given


def largest_common_share(total: int, sizes: Sequence[int]) -> list[int]:
    """Tokens that each group keeps of its ``sizes[i]`` at the largest common share that fits into ``total``.

    A group keeps ``floor(size * share)`` tokens, at least one; that may be more than ``total`` altogether.
    """
    # shares are multiples of a fraction finer than the difference of any two that matter
    finest = 2**48

    def kept(share: int) -> list[int]:
        return [max(1, size * share // finest) for size in sizes]

    low, high = 0, finest
    while low < high:
        middle = (low + high + 1) // 2
        if sum(kept(middle)) <= total:
            low = middle
        else:
            high = middle - 1
    return kept(low)


def _round(value: float, rounding: Rounding) -> int:
    if rounding == "truncate":
        return int(value)
    if rounding == "ceil_product":
        return math.ceil(value)
    if rounding == "half_even":
        return round(value)
    nearest = round(value)
    if abs(value - nearest) <= _SLACK * max(1.0, abs(value)):
        return nearest
    return math.ceil(value) if rounding == "ceil" else math.floor(value)


def _check_ratio(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"keep_ratio must be a number in (0, 1], the share KEPT; got {value!r}")
    if not 0 < float(value) <= 1:  # also refuses NaN
        raise InvalidValueError(f"keep_ratio must be in (0, 1], the share KEPT; got {value!r}")


def _check_count(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f"keep_tokens must be an integer of at least 1; got {value!r}")
    if value < 1:
        raise InvalidValueError(f"keep_tokens must be an integer of at least 1; got {value!r}")
