"""Replays recorded cases. More methods that rank tokens by attention, text or several tower layers."""

from __future__ import annotations

from collections.abc import Callable

from tests.goldens.case import Case

ADAPTERS: dict[str, Callable[[Case], None]] = {}
