"""Methods of the stage memory: what a stream remembers."""

from __future__ import annotations

from streamprune.catalog.info import method_row as _row

ROWS = (
    _row("memory", "rekv", "cache.rekv:ReKV", source="arXiv 2503.00540", causal=True,
         needs=("question_queries",),
         summary="every frame as it is; each layer brings back those most alike the question"),
    _row("memory", "streaming_tom", "cache.streaming_tom:StreamingTOMMemory", source="arXiv 2510.18269",
         causal=True, needs=("question_queries",),
         summary="few tokens of each frame in four bits; brings back those a question points at"),
)  # fmt: skip
