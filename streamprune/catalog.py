"""Every built-in method, one line each: stage, name, where its class lives, what the tables say.

Rows hold import strings, so listing methods and answering a misspelt name loads no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from typing import Literal, get_args

Stage = Literal["frames", "encoder", "pre_llm", "in_llm", "kv", "memory"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class MethodInfo:
    """One row of the registry.

    Attributes:
        name: what users type.
        stage: where in the pipeline it works.
        needs: names of the signals it reads.
        causal: usable on a live stream.
        training_free: works without training anything.
        source: where the method was published, or "baseline".
        summary: one line for the table.
        target: ``module:Class``, or the class itself for methods registered at run time.
        may_repeat: the released method can keep the same token twice.
        families: the model families it runs on, by ``model_type``; empty = every family.
    """

    name: str
    stage: Stage
    needs: tuple[str, ...]
    causal: bool
    training_free: bool
    source: str
    summary: str
    target: str | type = dataclasses.field(repr=False)
    may_repeat: bool = False
    families: tuple[str, ...] = ()

    def load(self) -> type:
        """Import and return the method's class."""
        if isinstance(self.target, type):
            return self.target
        module, _, name = self.target.partition(":")
        loaded: type = getattr(importlib.import_module(module), name)
        return loaded


# families whose tower can be run layer by layer
_IN_THE_TOWER = ("llava_onevision",)


def _row(
    stage: Stage,
    name: str,
    target: str,
    *,
    source: str,
    summary: str,
    needs: tuple[str, ...] = (),
    causal: bool = False,
    may_repeat: bool = False,
) -> MethodInfo:
    families = _IN_THE_TOWER if stage == "encoder" else ()
    target = f"streamprune.{target}"
    return MethodInfo(name, stage, needs, causal, True, source, summary, target, may_repeat, families)


ROWS = (
    _row("frames", "uniform", "frames.uniform:Uniform", source="baseline",
         summary="frames evenly spread over the clip"),
    _row("frames", "fps", "frames.fps:Fps", source="baseline", causal=True,
         summary="so many frames per second"),
    _row("frames", "keyframes", "frames.keyframes:Keyframes", source="baseline", causal=True,
         summary="the codec's own keyframes"),
    _row("frames", "timestamps", "frames.timestamps:Timestamps", source="baseline", causal=True,
         summary="frames shown at the given seconds"),
    _row("frames", "fastvid", "frames.fastvid:FastVIDFrames", source="arXiv 2503.11187",
         needs=("frame_features",),
         summary="looks into each of FastVID's segments"),
    _row("frames", "holitom", "frames.holitom:HoliTomFrames", source="arXiv 2505.21334",
         needs=("token_features",),
         summary="looks into each of HoliTom's segments"),
    _row("frames", "metok", "frames.metok:METokFrames", source="arXiv 2506.02850",
         needs=("mean_features", "relevance"),
         summary="looks most into the events the question is about"),
    _row("frames", "mobile_videogpt", "frames.mobile_videogpt:MobileVideoGPT",
         source="arXiv 2503.21782", needs=("encoder_features",),
         summary="frames that the tokens around attend to most"),
    _row("frames", "prunevid", "frames.prunevid:PruneVidFrames", source="arXiv 2412.16117",
         needs=("mean_features",),
         summary="looks into each of PruneVid's segments"),
    _row("frames", "quota", "frames.quota:Quota", source="arXiv 2503.08689", needs=("relevance",),
         summary="frames that get most of a budget shared out by relevance"),
    _row("frames", "scene", "frames.scene:Scene", source="baseline", needs=("images",),
         summary="cuts into scenes, looks into each"),
    _row("frames", "vilamp", "frames.vilamp:ViLaMPFrames", source="arXiv 2504.02438",
         needs=("frame_features", "relevance"),
         summary="relevant frames that do not look alike"),
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
    _row("encoder", "token_transforming", "encoder.token_transforming:TokenTransforming",
         source="arXiv 2506.05709", causal=True, needs=("queries", "keys"),
         summary="tokens shared out among the most attended ones"),
    _row("encoder", "tome", "encoder.tome:ToMe", source="arXiv 2210.09461", causal=True,
         needs=("keys",),
         summary="a fixed number of tokens per layer merged by their keys"),
    _row("encoder", "zero_tprune", "encoder.zero_tprune:ZeroTPrune", source="arXiv 2305.17328", causal=True,
         needs=("queries", "keys"),
         summary="votes along the attention, then look-alikes of higher ranks"),
    _row("pre_llm", "none", "pre_llm.none:KeepAll", source="baseline", causal=True,
         summary="keeps every token"),
    _row("pre_llm", "random", "pre_llm.random:RandomTokens", source="baseline",
         summary="seeded uniform choice of tokens"),
    _row("pre_llm", "stride", "pre_llm.stride:Stride", source="baseline",
         summary="every n-th token of the flattened video"),
    _row("pre_llm", "pool", "pre_llm.pool:Pool", source="baseline", causal=True,
         summary="average over blocks of each frame's grid"),
    _row("pre_llm", "streamprune", "pre_llm.streamprune:StreamPrune", source="streamprune",
         needs=("saliency",),
         summary="salient tokens that add to what this and neighbouring frames keep"),
    _row("pre_llm", "fastvid", "pre_llm.fastvid:FastVID", source="arXiv 2503.11187",
         needs=("saliency", "frame_features"),
         summary="dynamic segments, salient tokens, density-based merging"),
    _row("pre_llm", "aim", "pre_llm.aim:AIM", source="arXiv 2412.03248", causal=True,
         summary="frames halved again and again by bipartite matching"),
    _row("pre_llm", "atc", "pre_llm.atc:ATC", source="arXiv 2409.11923", causal=True,
         summary="agglomerative clustering of each frame"),
    _row("pre_llm", "catp", "pre_llm.catp:CATP", source="arXiv 2508.07871", causal=True,
         needs=("image_embeds", "text_embeds"),
         summary="tokens that represent their frame and fit the text (stage 1)"),
    _row("pre_llm", "cdpruner", "pre_llm.cdpruner:CDPruner", source="arXiv 2506.10967",
         needs=("image_embeds", "text_embeds"),
         summary="diverse and question-relevant tokens of each frame, by determinant"),
    _row("pre_llm", "divprune", "pre_llm.divprune:DivPrune", source="arXiv 2503.02175",
         summary="farthest-point picks over the whole clip"),
    _row("pre_llm", "dycoke", "pre_llm.dycoke:DyCoke", source="arXiv 2411.15024",
         summary="windows of four frames: one whole, the others' changes"),
    _row("pre_llm", "dytok", "pre_llm.dytok:DyToK", source="arXiv 2512.06866",
         needs=("query_frame_attention", "received_attention", "keys"),
         summary="frames the question looks at get more; visionzip in each"),
    _row("pre_llm", "evs", "pre_llm.evs:EVS", source="arXiv 2510.14624",
         summary="first frame, then the most changed tokens of the clip"),
    _row("pre_llm", "fastervlm", "pre_llm.fastervlm:FasterVLM", source="arXiv 2412.01818", causal=True,
         needs=("saliency",),
         summary="the most salient tokens of each frame"),
    _row("pre_llm", "flashvid", "pre_llm.flashvid:FlashVID", source="arXiv 2602.08024",
         needs=("received_attention",), may_repeat=True,
         summary="attended diverse tokens, trees over time, density clusters"),
    _row("pre_llm", "flowcut", "pre_llm.flowcut:FlowCut", source="arXiv 2505.19536",
         needs=("layer_saliency", "layer_value_similarity", "layer_value_norm"),
         summary="attention and values followed through the tower's layers"),
    _row("pre_llm", "gprune", "pre_llm.gprune:GPrune", source="arXiv 2501.02268", causal=True,
         summary="token lengths spread over each frame's similarity graph"),
    _row("pre_llm", "greedyprune", "pre_llm.greedyprune:GreedyPrune", source="arXiv 2506.13166",
         needs=("saliency",), causal=True,
         summary="salient tokens of each frame, similar ones set aside"),
    _row("pre_llm", "hiprune", "pre_llm.hiprune:HiPrune", source="arXiv 2508.00553", causal=True,
         needs=("received_attention_middle", "received_attention"),
         summary="anchors of a middle tower layer, neighbours, most attended"),
    _row("pre_llm", "holitom", "pre_llm.holitom:HoliTom", source="arXiv 2505.21334",
         needs=("received_attention",),
         summary="still places stored once per segment and clustered"),
    _row("pre_llm", "holov", "pre_llm.holov:HoloV", source="arXiv 2510.02912", causal=True,
         needs=("saliency",), may_repeat=True,
         summary="a quota of salient tokens for each run of a frame"),
    _row("pre_llm", "llava_scissor", "pre_llm.llava_scissor:LLaVAScissor", source="arXiv 2506.21862",
         summary="connected components in frames, then over the clip"),
    _row("pre_llm", "lvlm_csp", "pre_llm.lvlm_csp:LVLMCSP", source="arXiv 2504.10854", causal=True,
         summary="evenly spaced, drawn or salient representatives of a frame"),
    _row("pre_llm", "metok", "pre_llm.metok:METok", source="arXiv 2506.02850",
         needs=("image_embeds", "text_embeds"),
         summary="events, pooled finely where they fit the question"),
    _row("pre_llm", "mustdrop", "pre_llm.mustdrop:MustDrop", source="arXiv 2411.10803",
         needs=("early_features",),
         summary="windows that look alike early in the tower averaged"),
    _row("pre_llm", "prunevid", "pre_llm.prunevid:PruneVid", source="arXiv 2412.16117",
         summary="clustered segments, still places averaged, clusters of the rest"),
    _row("pre_llm", "pyramid_token_pruning", "pre_llm.pyramid_token_pruning:PyramidTokenPruning",
         source="arXiv 2509.15704", causal=True, needs=("saliency", "text_embeds", "image_embeds"),
         summary="salient regions get more; saliency and question in each"),
    _row("pre_llm", "recoverable_compression", "pre_llm.recoverable_compression:RecoverableCompression",
         source="AAAI 2025 Recoverable Compression", causal=True,
         needs=("saliency", "keys", "text_embeds", "image_embeds"),
         summary="salient tokens, tokens like the question, sums of the rest"),
    _row("pre_llm", "saint", "pre_llm.saint:SAINT", source="arXiv 2503.11549", causal=True,
         summary="drops the tokens of a frame most like the others"),
    _row("pre_llm", "star", "pre_llm.star:STAR", source="arXiv 2505.12359", causal=True,
         summary="tokens that a frame's other tokens attend to (stage 1)"),
    _row("pre_llm", "stc", "pre_llm.stc:STC", source="arXiv 2512.00891", causal=True,
         summary="tokens unlike their frame and unlike all frames before"),
    _row("pre_llm", "streaming_tom", "pre_llm.streaming_tom:StreamingTOM", source="arXiv 2510.18269",
         causal=True, needs=("received_attention",),
         summary="changed tokens by attention, still ones merged in clusters"),
    _row("pre_llm", "sttm", "pre_llm.sttm:STTM", source="arXiv 2507.07990",
         summary="quadtree cells per frame, joined over time"),
    _row("pre_llm", "timechat_online", "pre_llm.timechat_online:TimeChatOnline", source="arXiv 2504.17343",
         summary="drops tokens that repeat their place one frame earlier"),
    _row("pre_llm", "todre", "pre_llm.todre:ToDRE", source="arXiv 2505.18757", needs=("saliency",),
         summary="tokens with the lowest sum of similarities (stage 1)"),
    _row("pre_llm", "tome", "pre_llm.tome:ToMe", source="arXiv 2210.09461", causal=True,
         summary="rounds of bipartite matching inside each frame"),
    _row("pre_llm", "vflowopt", "pre_llm.vflowopt:VFlowOpt", source="arXiv 2508.05211",
         needs=("context_attention",),
         summary="attention from context tokens; a cell's rest recycled"),
    _row("pre_llm", "vidcom2", "pre_llm.vidcom2:VidCom2", source="arXiv 2505.14454",
         summary="tokens unlike their frame, more of them in unusual frames"),
    _row("pre_llm", "vilamp", "pre_llm.vilamp:ViLaMP", source="arXiv 2504.02438",
         needs=("image_embeds", "text_embeds"),
         summary="whole key frames for the question, one token for the others"),
    _row("pre_llm", "visionzip", "pre_llm.visionzip:VisionZip", source="arXiv 2412.04467", causal=True,
         needs=("received_attention", "keys"),
         summary="most attended tokens of a frame, the rest merged by their keys"),
    _row("pre_llm", "vispruner", "pre_llm.vispruner:VisPruner", source="arXiv 2412.01818", causal=True,
         needs=("saliency", "encoder_features"),
         summary="salient tokens, and others with duplicates removed"),
    _row("pre_llm", "vscan", "pre_llm.vscan:VScan", source="arXiv 2505.22654", causal=True,
         needs=("received_attention_shallow", "received_attention"),
         summary="best of every window and of the frame, the rest averaged in"),
    _row("pre_llm", "zoo_prune", "pre_llm.zoo_prune:ZOOPrune", source="arXiv 2509.24837", causal=True,
         needs=("projector_sensitivity",),
         summary="projector-sensitive tokens that differ from those picked"),
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
)  # fmt: skip
