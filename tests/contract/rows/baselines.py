"""The baselines, our own method, and FastVID in its forms."""

from __future__ import annotations

from tests.contract.row import Row

ROWS = (
    Row("none", floor="all"),
    Row("random"),
    Row("random", {"seed": 7}),
    Row("random", {"within": "frame"}, floor="frame"),
    Row("stride"),
    Row("stride", {"within": "frame"}, floor="frame"),
    Row("pool", merges=True, floor="frame"),
    Row("streamprune"),
    Row("streamprune", {"neighbor_weight": 0, "saliency_power": 0}),
    Row("fastvid", merges=True, counts=False, floor="frame"),
    Row("fastvid", {"form": "llava_video"}, merges=True, floor="frame"),
    Row("fastvid", {"form": "qwen2_5_vl"}, merges=True, counts=False, floor="frame"),
    Row(
        "fastvid",
        {"anchor_in_mean": False, "anchors_from": "first"},
        merges=True,
        counts=False,
        floor="frame",
    ),
)
