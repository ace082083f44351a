"""Range checks of numeric options, said the same way everywhere."""

from __future__ import annotations

from streamprune.errors import InvalidTypeError, InvalidValueError


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Refuse anything but an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name} must be an integer of at least {least}, got {value!r}")
    if value < least:
        raise InvalidValueError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse anything but a number in [``low``, ``high``]; NaN is in no range."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    if not low <= value <= high:
        raise InvalidValueError(f"{name} must be in [{low:g}, {high:g}], got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Refuse anything but True or False."""
    if not isinstance(value, bool):
        raise InvalidTypeError(f"{name} must be True or False, got {value!r}")
