"""Methods that rank tokens by the attention of the vision tower."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = (
    Row("visionzip", merges=True, sums=True, floor="frame"),
    Row("visionzip", {"merge": "mean"}, merges=True, floor="frame"),
    Row("visionzip", {"form": "clip"}, merges=True, sums=True, floor="frame"),
)
