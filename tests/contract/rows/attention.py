"""Methods that rank tokens by the attention of the vision tower."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = ()
