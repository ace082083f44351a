"""Replays recorded cases. Methods that rank tokens by the attention of the vision tower."""

from __future__ import annotations

from collections.abc import Callable

from tests.goldens.case import Case

ADAPTERS: dict[str, Callable[[Case], None]] = {}
