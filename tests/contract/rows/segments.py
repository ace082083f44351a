"""Methods that cut the clip into segments and cluster what is in them."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = ()
