"""How many tokens each frame of a stream may keep: quiet times save for busy ones, within what was earned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from numbers import Real
from typing import Any

import torch

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError

_NANOSECONDS = 10**9
_DEFAULT_SECONDS = 10


class TokenBucket:
    """Tokens are earned with the time of the stream and spent by its frames; whole numbers, exactly.

    However frames ask, those of any stretch of time get at most ``tokens_per_second`` times its length plus
    ``capacity`` together. A stretch that a clock repeats, by jumping back, counts every time.

    Args:
        tokens_per_second: earned, above 0.
        floor: a frame that asks for fewer gets so many, as far as they are there.
        cap: no frame gets more; None: as many as there are.
        capacity: most tokens that can be saved; the stream begins with as many. None: what ten seconds earn,
            at least ``cap``.
    """

    def __init__(
        self,
        tokens_per_second: float | Fraction,
        floor: int = 0,
        cap: int | None = None,
        capacity: int | None = None,
    ) -> None:
        rate = _positive("tokens_per_second", tokens_per_second)
        check_count("floor", floor, least=0)
        if cap is not None:
            check_count("cap", cap)
            if cap < floor:
                raise InvalidValueError(f"cap={cap} must be at least floor={floor}")
        if capacity is None:
            capacity = max(1, floor, cap or 0, math.ceil(_DEFAULT_SECONDS * rate))
        check_count("capacity", capacity)
        least, name = max((floor, "floor"), (cap or 0, "cap"))
        if capacity < least:
            raise InvalidValueError(
                f"capacity={capacity} must be at least {name}={least}, or no frame could get as many"
            )
        self.tokens_per_second = rate
        self.floor, self.cap, self.capacity = int(floor), cap, int(capacity)
        # a token in units of which a nanosecond earns a whole number
        self._token = rate.denominator * _NANOSECONDS
        self._saved = self.capacity * self._token
        self._clock: int | None = None  # nanoseconds

    def __repr__(self) -> str:
        return f"TokenBucket({float(self.tokens_per_second):g}/s, {self.saved} of {self.capacity} saved)"

    @property
    def saved(self) -> int:
        """Tokens that a frame could get now."""
        return self._saved // self._token

    def grant(self, pts_seconds: float, wanted: int) -> int:
        """Tokens that the frame shown at ``pts_seconds`` may keep of the ``wanted`` ones; they are spent.

        A clock that stands still or jumps back earns nothing by that, and earns again from where it is.
        """
        check_count("wanted", wanted, least=0)
        self._earn(pts_seconds)
        asked = max(int(wanted), self.floor)
        granted = min(asked, self.saved, self.capacity if self.cap is None else self.cap)
        self._saved -= granted * self._token
        return granted

    def give_back(self, tokens: int) -> None:
        """Save ``tokens`` that were granted and are not used after all."""
        check_count("tokens", tokens, least=0)
        self._saved = min(self._saved + tokens * self._token, self.capacity * self._token)

    def reset(self) -> None:
        """Begin anew, with everything saved that can be."""
        self._saved, self._clock = self.capacity * self._token, None

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """No tensors, and what JSON can hold, from which :meth:`restore` goes on alike."""
        return {}, {"saved": str(Fraction(self._saved, self._token)), "clock": self._clock}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over a saved state; of a larger bucket as much as this one holds."""
        saved = math.floor(Fraction(about["saved"]) * self._token)
        self._saved = min(saved, self.capacity * self._token)
        self._clock = None if about["clock"] is None else int(about["clock"])

    def _earn(self, pts_seconds: float) -> None:
        if isinstance(pts_seconds, bool) or not isinstance(pts_seconds, Real):
            raise InvalidTypeError(f"pts_seconds must be a number of seconds, got {pts_seconds!r}")
        if not math.isfinite(pts_seconds):
            raise InvalidValueError(f"pts_seconds must be finite, got {pts_seconds!r}")
        now = round(Fraction(float(pts_seconds)) * _NANOSECONDS)
        if self._clock is not None and now > self._clock:
            earned = (now - self._clock) * self.tokens_per_second.numerator
            self._saved = min(self._saved + earned, self.capacity * self._token)
        self._clock = now


def _positive(name: str, value: object) -> Fraction:
    """``value`` exactly; it must be a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
        raise InvalidTypeError(f"{name} must be a number above 0, got {value!r}")
    if not 0 < value < math.inf:
        raise InvalidValueError(f"{name} must be a finite number above 0, got {value!r}")
    return Fraction(value)
