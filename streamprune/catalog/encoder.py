"""Methods of the stage encoder: inside the vision tower."""

from __future__ import annotations

from streamprune.catalog.info import TOWER_IN_PARTS
from streamprune.catalog.info import method_row as _row

ROWS = (
    _row("encoder", "atc", "encoder.atc:ATC", source="arXiv 2409.11923", causal=True,
         needs=("keys",),
         summary="agglomerative clusters of keys in a few layers"),
    _row("encoder", "earlytom", "encoder.earlytom:EarlyTom", source="arXiv 2605.30010",
         summary="middle frames of still segments merged early in the tower"),
    _row("encoder", "flowcut", "encoder.flowcut:FlowCut", source="arXiv 2505.19536", causal=True,
         needs=("queries", "keys", "values"),
         summary="attention and values followed through the layers while cutting"),
    _row("encoder", "gtp_vit", "encoder.gtp_vit:GTPViT", source="arXiv 2311.03035", causal=True,
         needs=("queries", "keys"),
         summary="dropped tokens passed on to their neighbours in a graph"),
    _row("encoder", "ppt", "encoder.ppt:PPT", source="arXiv 2310.01812", causal=True,
         needs=("queries", "keys", "values"),
         summary="prunes where attention is uneven, merges elsewhere"),
    _row("encoder", "saint", "encoder.saint:Saint", source="arXiv 2503.11549", causal=True,
         needs=("keys",),
         summary="tokens with many look-alikes dropped, as many as there are"),
    _row("encoder", "stc", "encoder.stc:STCCacher", source="arXiv 2512.00891", causal=True,
         families=TOWER_IN_PARTS,
         summary="of a frame like the one before only what changed is computed"),
    _row("encoder", "token_transforming", "encoder.token_transforming:TokenTransforming",
         source="arXiv 2506.05709", causal=True, needs=("queries", "keys"),
         summary="tokens shared out among the most attended ones"),
    _row("encoder", "tome", "encoder.tome:ToMe", source="arXiv 2210.09461", causal=True,
         needs=("keys",),
         summary="a fixed number of tokens per layer merged by their keys"),
    _row("encoder", "zero_tprune", "encoder.zero_tprune:ZeroTPrune", source="arXiv 2305.17328", causal=True,
         needs=("queries", "keys"),
         summary="votes along the attention, then look-alikes of higher ranks"),
)  # fmt: skip
