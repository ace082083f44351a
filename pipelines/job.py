"""One call of ``ask`` while it is carried out, and what its answers took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamprune.metrics.flops import DecoderShape
from streamprune.metrics.memory import PeakMemory, kv_bytes
from streamprune.models.base import Prompt
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
    prompt: Prompt,
    out: Generation,
    layer_tokens: Sequence[int] | None = None,
) -> Stats:
    """What one answer took.

    Args:
        layer_tokens: tokens of the prompt in each layer, where not all went through all of them.
    """
    tokens = len(prompt) if layer_tokens is None else layer_tokens
    video, reduction, signals = job.video, reduced.reduction, job.video.tokens.signals
    late_ms = signals.late_ms(job.request.needs()) if isinstance(signals, Signals) else 0.0
    choose_flops = shape.prefill_flops(video.choose_tokens) if video.choose_tokens else 0
    new_tokens = len(out.token_ids)
    return Stats(
        frames=reduction.grid.frames,
        tokens_in=reduction.grid.tokens,
        tokens_kept=len(reduction),
        prompt_tokens=len(prompt),
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
        prefill_flops=shape.prefill_flops(tokens),
        decode_flops=shape.decode_flops(tokens, new_tokens),
        kv_bytes=kv_bytes(out.cache),
        peak_bytes=job.peak.read(),
    )
