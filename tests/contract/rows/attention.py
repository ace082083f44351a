"""Methods that rank tokens by the attention of the vision tower."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = (
    Row("visionzip", merges=True, sums=True, floor="frame"),
    Row("visionzip", {"merge": "mean"}, merges=True, floor="frame"),
    Row("visionzip", {"form": "clip"}, merges=True, sums=True, floor="frame"),
    Row("fastervlm", floor="frame"),
    Row("vispruner", floor="frame"),
    Row("vispruner", {"important_ratio": 0.0, "drop_per_round": 3}, floor="frame"),
)
