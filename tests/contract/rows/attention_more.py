"""More methods that rank tokens by attention, text or several tower layers."""

from __future__ import annotations

from tests.contract.row import Row

ROWS = (
    Row("flowcut", floor="frame"),
    Row("flowcut", {"schedule": "frame", "interval": 1, "momentum": 0.2}, floor="frame"),
)
