"""Methods that merge pairs of tokens or cluster tokens."""

from __future__ import annotations

from tests.contract.row import Row

ROWS: tuple[Row, ...] = (
    Row("tome", merges=True, floor="frame"),
    Row("tome", {"rounds": 9}, merges=True, floor="frame"),
    Row("aim", merges=True, floor="frame"),
    Row("atc", merges=True, floor="frame"),
    Row("atc", {"linkage": "single"}, merges=True, floor="frame"),
    Row("saint", floor="frame"),
    Row("saint", {"as_released": False}, floor="frame"),
)
