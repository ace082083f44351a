"""Methods of the stage frames: when to look."""

from __future__ import annotations

from streamprune.catalog.info import method_row as _row

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
)  # fmt: skip
