"""Replays recorded cases. Methods that compare a frame with the frames before it."""

from __future__ import annotations

from collections.abc import Callable

from tests.goldens.case import Case

ADAPTERS: dict[str, Callable[[Case], None]] = {}
