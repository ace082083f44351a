"""Methods of the stage in_llm: between layers of the language model."""

from __future__ import annotations

from streamprune.catalog.info import method_row as _row

ROWS = (
    _row("in_llm", "aim", "in_llm.aim:AIMInner", source="arXiv 2412.03248", needs=("projections",),
         summary="a PageRank over attention, fewer tokens at every layer"),
    _row("in_llm", "dart", "in_llm.dart:DART", source="EMNLP 2025 DART",
         needs=("projections", "states"),
         summary="a few pivots and the tokens least like them"),
    _row("in_llm", "fastv", "in_llm.fastv:FastV", source="arXiv 2403.06764", needs=("attention",),
         summary="drops what the last token does not look at"),
    _row("in_llm", "feather", "in_llm.feather:Feather", source="arXiv 2412.13180",
         needs=("projections", "grid"),
         summary="ranks without rotary positions and adds an even grid"),
    _row("in_llm", "framefusion", "in_llm.framefusion:FrameFusion", source="arXiv 2501.01986",
         needs=("states", "attention", "grid"),
         summary="merges what is alike in time layer by layer, then prunes once"),
    _row("in_llm", "holitom", "in_llm.holitom:HoliTomInner", source="arXiv 2505.21334",
         needs=("attention", "states"),
         summary="folds what the last token does not look at into its like"),
    _row("in_llm", "prunevid", "in_llm.prunevid:PruneVidInner", source="arXiv 2412.16117",
         needs=("projections",),
         summary="what the question looks at most, in every frame its share"),
    _row("in_llm", "pyramiddrop", "in_llm.pyramiddrop:PyramidDrop", source="arXiv 2410.17247",
         needs=("attention",),
         summary="drops half of what is left at every quarter of the model"),
    _row("in_llm", "sparsevlm", "in_llm.sparsevlm:SparseVLM", source="arXiv 2410.04417",
         needs=("attention", "states"),
         summary="rated by the words the video concerns; the dropped pooled"),
    _row("in_llm", "star", "in_llm.star:STARInner", source="arXiv 2505.12359", needs=("states",),
         summary="tokens whose states are like those of the question (stage 2)"),
    _row("in_llm", "todre", "in_llm.todre:ToDREInner", source="arXiv 2505.18757",
         needs=("attention",),
         summary="late, all or nothing: does text look at the video (stage 2)"),
    _row("in_llm", "vscan", "in_llm.vscan:VScanInner", source="arXiv 2505.22654",
         needs=("attention", "projections"),
         summary="half-way up, what the last token looks at (stage 2)"),
)  # fmt: skip
