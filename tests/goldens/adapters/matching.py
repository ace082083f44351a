"""Replays recorded cases. Methods that merge pairs of tokens or cluster tokens."""

from __future__ import annotations

from collections.abc import Callable

from tests.goldens.case import Case

ADAPTERS: dict[str, Callable[[Case], None]] = {}
