"""Methods that choose by diversity: greedy picks, determinants, graphs."""

from __future__ import annotations

from streamprune.tokens import VideoGrid
from tests.contract.row import Row, one_each_frame


def one(grid: VideoGrid) -> int:
    """One token, on any grid: the share of the clip rounded half to even."""
    return 1


ROWS: tuple[Row, ...] = (
    Row("divprune", overshoot=one),
    Row("divprune", {"token_set": "frame"}, floor="frame", overshoot=one_each_frame),
    Row("cdpruner", floor="frame"),
    Row("cdpruner", {"relevance": "like_text", "scale_over": "frame"}, floor="frame"),
    Row("gprune", floor="frame"),
    Row("todre"),
    Row("todre", {"token_set": "frame"}, floor="frame"),
    Row("zoo_prune", floor="frame"),
    Row("star", floor="frame"),
    Row("greedyprune", floor="frame"),
    Row("greedyprune", {"similarity_threshold": 0.1}, floor="frame"),
    Row("catp", floor="frame"),
    Row("catp", {"alignment_weight": 0.0}, floor="frame"),
)
