"""Methods of the stage memory: what a stream remembers within its bytes, and what an answer reads of it."""

from __future__ import annotations

from streamprune.catalog.info import method_row as _row

ROWS = (
    _row("memory", "flash_vstream", "cache.flash_vstream:FlashVStream", source="arXiv 2406.08085",
         causal=True, summary="visual tokens: means of like frames, a few frames in full"),
    _row("memory", "infinipot_v", "cache.infinipot_v:InfiniPotVMemory", source="arXiv 2506.15745",
         causal=True,
         summary="a fixed number of tokens, which every head chooses anew when they are used up"),
    _row("memory", "infinitehip", "cache.infinitehip:InfiniteHiP", source="arXiv 2502.08910", causal=True,
         needs=("question_queries",),
         summary="everything; a question reads what a search in ever smaller chunks finds"),
    _row("memory", "livevlm", "cache.livevlm:LiveVLM", source="arXiv 2505.15269", causal=True,
         needs=("chunk_queries", "question_queries"),
         summary="tokens that newer frames look at, over the whole timeline; brings back pages of them"),
    _row("memory", "keep_all", "cache.keep_all:KeepAll", source="baseline", causal=True,
         needs=("question_queries",), summary="every frame whole, found as by tiered"),
    _row("memory", "rekv", "cache.rekv:ReKV", source="arXiv 2503.00540", causal=True,
         needs=("question_queries",),
         summary="every frame as it is; each layer brings back those most alike the question"),
    _row("memory", "stc", "cache.stc:STCMemory", source="arXiv 2512.00891", causal=True,
         needs=("question_queries",),
         summary="as rekv, behind a tower that reuses and a reducer that keeps what is new"),
    _row("memory", "streaming_tom", "cache.streaming_tom:StreamingTOMMemory", source="arXiv 2510.18269",
         causal=True, needs=("question_queries",),
         summary="few tokens of each frame in four bits; brings back those a question points at"),
    _row("memory", "streaming_vlm", "cache.streaming_vlm:StreamingVLM", source="arXiv 2510.09608",
         causal=True, summary="the last seconds, at positions that never grow"),
    _row("memory", "streammem", "cache.streammem:StreamMem", source="arXiv 2508.15717", causal=True,
         needs=("proxy_queries",),
         summary="tokens that the text opening an answer looks at, and a mean of each frame"),
    _row("memory", "streamvln", "cache.streamvln:StreamVLN", source="arXiv 2507.05240", causal=True,
         summary="visual tokens: a window that starts anew, behind frames at even steps"),
    _row("memory", "tiered", "cache.tiered:Tiered", source="streamprune", causal=True,
         needs=("question_queries",),
         summary="new frames whole, older ones reduced, old ones in four bits; brings back what is asked"),
    _row("memory", "timechat_online", "cache.timechat_online:TimeChatOnlineMemory", source="arXiv 2504.17343",
         causal=True, summary="visual tokens: the newest of those that differ from the frame before"),
    _row("memory", "window", "cache.window:Window", source="baseline", causal=True,
         summary="visual tokens: the newest frames alone"),
)  # fmt: skip
