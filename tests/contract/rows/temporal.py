"""Methods that compare a frame with the frames before it."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = ()
