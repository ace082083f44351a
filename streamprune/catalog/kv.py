"""Methods of the stage kv: which cache entries stay."""

from __future__ import annotations

from streamprune.catalog.info import method_row as _row

ROWS = (
    _row("kv", "a2sf", "kv.a2sf:A2SF", source="arXiv 2407.20485", causal=True, needs=("queries",),
         summary="entries attended to most, earlier attention half forgotten"),
    _row("kv", "expected_attention", "kv.expected_attention:ExpectedAttention", source="arXiv 2510.00636",
         causal=True, needs=("queries",),
         summary="attention expected of future queries, times value norm"),
    _row("kv", "h2o", "kv.h2o:H2O", source="arXiv 2306.14048", causal=True, needs=("queries",),
         summary="entries attended to most so far, and the newest"),
    _row("kv", "infinipot_v", "kv.infinipot_v:InfiniPotV", source="arXiv 2506.15745", causal=True,
         needs=("segments",),
         summary="unlike the newest frames, or of large value; text stays"),
    _row("kv", "keydiff", "kv.keydiff:KeyDiff", source="arXiv 2504.15364", causal=True,
         summary="keys least similar to the mean key"),
    _row("kv", "knorm", "kv.knorm:KNorm", source="arXiv 2406.11430", causal=True,
         summary="entries whose keys have a small norm"),
    _row("kv", "lagkv", "kv.lagkv:LagKV", source="arXiv 2504.04704", causal=True,
         summary="entries that stand out against those right after them"),
    _row("kv", "pyramidkv", "kv.pyramidkv:PyramidKV", source="arXiv 2406.02069", causal=True,
         needs=("queries",),
         summary="as snapkv, with more entries in the first layers"),
    _row("kv", "plphp", "kv.plphp:PLPHP", source="arXiv 2502.14504", causal=True,
         needs=("queries", "segments"),
         summary="per head and frame; more in layers that look at the video"),
    _row("kv", "kvcrush", "kv.kvcrush:KVCrush", source="arXiv 2503.00022", causal=True, needs=("queries",),
         summary="as snapkv, beside representatives of what heads pass over"),
    _row("kv", "snapkv", "kv.snapkv:SnapKV", source="arXiv 2404.14469", causal=True, needs=("queries",),
         summary="what the last tokens of the prompt attend to"),
    _row("kv", "streamingllm", "kv.streamingllm:StreamingLLM", source="arXiv 2309.17453", causal=True,
         summary="the first tokens and a window of the newest"),
    _row("kv", "tova", "kv.tova:TOVA", source="arXiv 2401.06104", causal=True, needs=("queries",),
         summary="what the newest token attends to"),
    _row("kv", "vatp", "kv.vatp:VATP", source="arXiv 2406.12335", causal=True, needs=("queries",),
         summary="attention received times the size of the value"),
    _row("kv", "zeromerge", "kv.zeromerge:ZeroMerge", source="arXiv 2503.10714", causal=True,
         needs=("queries",),
         summary="entries attended to most; the others averaged into a few"),
)  # fmt: skip
