"""Replays recorded cases. Methods that choose by diversity: greedy picks, determinants, graphs."""

from __future__ import annotations

from collections.abc import Callable

from tests.goldens.case import Case

ADAPTERS: dict[str, Callable[[Case], None]] = {}
