"""Replays recorded cases. Methods that cut the clip into segments and cluster what is in them."""

from __future__ import annotations

from collections.abc import Callable

from tests.goldens.case import Case

ADAPTERS: dict[str, Callable[[Case], None]] = {}
