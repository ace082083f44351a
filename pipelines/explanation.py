"""Why an answer came out: one question answered with a recipe and without, and all that happened on the way.

from streamprune.pipelines.explanation import explain

explanation = explain(vlm, "talk.mp4", "Who opens the door?", recipe="fastvid", keep_ratio=0.1)
explanation.save("report.html")
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamprune.errors import InvalidTypeError
from streamprune.models.sampling import Sampling
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.encoding import EncodedVideo, Encoding, Progress
from streamprune.pipelines.explanation_runs import Runs
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.request import AnswerRequest, read_encoder, read_recipe
from streamprune.readers import Source, open_source
from streamprune.recipe import Recipe
from streamprune.report.explain.data import Explanation
from streamprune.report.record import circumstances

if TYPE_CHECKING:
    from streamprune.frames import FrameMethod
    from streamprune.pipelines.offline import VideoLLM
    from streamprune.positions import PositionRule, Positions


def explain(
    vlm: VideoLLM,
    video: Any,
    question: str,
    *,
    recipe: str | Path | Recipe | None = None,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    frames: str | FrameMethod | None = None,
    num_frames: int | None = None,
    fps: float | Fraction | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    positions: PositionRule | Positions | None = None,
    backend: str = "pyav",
    frames_per_batch: int | None = None,
    command: Sequence[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Explanation:
    """Answer ``question`` with ``recipe`` and without it, and collect what every stage did.

    Without the recipe means: every token of the same frames, through an untouched vision tower. Where the
    recipe has a frames stage of its own, the other run looks at as many frames, evenly spread.

    Args:
        video: as for ``ask``, but one, and not encoded already: its pictures are shown.
        command: what was typed, to be shown; None = the program's arguments.
        others: as for ``ask``.

    Raises UsageError, SourceError, SignalError, ContextLengthError or DeviceError, as ``ask`` does.
    """
    if isinstance(video, EncodedVideo):
        raise InvalidTypeError("video must be a video whose pictures can be shown, got an EncodedVideo")
    if not isinstance(question, str):
        raise InvalidTypeError(f"question must be one text, got {type(question).__name__}")
    chosen = read_recipe(recipe, keep_ratio, keep_tokens)
    looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
    sampling = Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop)
    request = AnswerRequest((question,), chosen, options, max_new_tokens, positions, sampling)
    batch = vlm.family.frames_per_batch if frames_per_batch is None else frames_per_batch
    how = Encoding(backend, batch, progress, read_encoder(chosen))
    typed = [Path(sys.argv[0]).name, *sys.argv[1:]] if command is None else list(command)
    started = time.perf_counter()
    source = video if isinstance(video, Source) else open_source(video, backend=backend)
    try:
        runs = Runs(Asking(vlm.family, request, looks, how), source, question)
        runs.carry_out()
    finally:
        if source is not video:
            source.close()
    found = runs.explanation({**circumstances(typed), "command": shlex.join(typed)})
    spent = time.perf_counter() - started - runs.inference_seconds
    return replace(found, explain_ms=1000 * spent)
