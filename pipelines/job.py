"""One call of ``ask`` while it is carried out, and what its answers took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamprune.metrics.flops import DecoderShape
from streamprune.metrics.memory import PeakMemory, kv_bytes
from streamprune.models.generation import Generation
from streamprune.models.signals import Signals
from streamprune.pipelines.answers import Stats
from streamprune.pipelines.encoding import EncodedVideo, Progress
from streamprune.pipelines.request import AnswerRequest
from streamprune.reduce import Reducer
from streamprune.reduction import Reduction


@dataclass(frozen=True)
class Reduced:
    """What is left of the video, for one question or for all, and what choosing it took."""

    reduction: Reduction
    ms: float
    flops: int


@dataclass(frozen=True)
class Job:
    """What the questions of one call share."""

    request: AnswerRequest
    video: EncodedVideo
    method: Reducer
    peak: PeakMemory
    progress: Progress | None


def stats_of(
    shape: DecoderShape,
    job: Job,
    reduced: Reduced,
    prompt_tokens: int,
    out: Generation,
    layer_tokens: Sequence[int] | None = None,
    held: Sequence[int] | None = None,
    rows: int = 1,
) -> Stats:
    """What one answer took.

    Args:
        prompt_tokens: tokens that entered the language model.
        layer_tokens: of them in each layer, where not all went through all of them.
        held: entries in the cache of each layer before.
        rows: answers that were given together; each has an equal share of the cache.
    """
    tokens = [prompt_tokens] * shape.layers if layer_tokens is None else layer_tokens
    held = [0] * shape.layers if held is None else held
    seen = [before + new for before, new in zip(held, tokens, strict=True)]
    video, reduction, signals = job.video, reduced.reduction, job.video.tokens.signals
    late_ms = signals.late_ms(job.request.needs()) if isinstance(signals, Signals) else 0.0
    choose_flops = shape.prefill_flops(video.choose_tokens) if video.choose_tokens else 0
    new_tokens = len(out.token_ids)
    return Stats(
        frames=reduction.grid.frames,
        tokens_in=reduction.grid.tokens,
        tokens_kept=len(reduction),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        tower_share=video.tower_share,
        decode_ms=video.decode_ms,
        preprocess_ms=video.preprocess_ms,
        encode_ms=video.encode_ms + late_ms,
        choose_ms=video.choose_ms,
        reduce_ms=reduced.ms,
        prefill_ms=1000 * out.prefill_seconds,
        generate_ms=1000 * out.generate_seconds,
        reduce_flops=reduced.flops + choose_flops,
        prefill_flops=shape.prefill_flops(tokens, held),
        decode_flops=shape.decode_flops(seen, new_tokens, _looked_at(out.cache)),
        kv_bytes=kv_bytes(out.cache) // rows,
        peak_bytes=job.peak.read(),
        cache_ms=video.cache_ms,
    )


def _looked_at(cache: Any) -> dict[int, int]:
    """By layer, what the tokens of an answer attended to, where a reduced ``cache`` held fewer than came."""
    report = getattr(cache, "report", None)
    return {} if report is None else {layer.layer: layer.looked_at for layer in report()}
