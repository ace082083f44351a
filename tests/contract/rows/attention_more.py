"""More methods that rank tokens by attention, text or several tower layers."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = ()
