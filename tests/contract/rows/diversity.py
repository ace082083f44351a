"""Methods that choose by diversity: greedy picks, determinants, graphs."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = ()
