"""Range checks of numeric options, said the same way everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

from streamprune.errors import InvalidTypeError, InvalidValueError


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Refuse anything but an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f"{name} must be an integer of at least {least}, got {value!r}")
    if int(value) < least:
        raise InvalidValueError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a number in [``low``, ``high``]; NaN is in no range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    if not low <= value <= high:
        raise InvalidValueError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")


def check_share(name: str, value: object) -> None:
    """Refuse anything but a number in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"{name} must be a number in (0, 1], got {value!r}")
    if not 0 < value <= 1:
        raise InvalidValueError(f"{name} must be in (0, 1], got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True or False."""
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be True or False, got {value!r}")


def check_instead_of_budget(method: str, options: Mapping[str, object], *, budget_given: bool) -> None:
    """Refuse options of ``method`` that say how much stays where keep_ratio or keep_tokens says it too.

    Options that are None are not given.
    """
    given = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    if given and budget_given:
        raise InvalidValueError(
            f"{' and '.join(given)} of {method} decides how much stays, and so does keep_ratio or "
            f"keep_tokens; leave out {', '.join(name for name in options)} or the budget"
        )
