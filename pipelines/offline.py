"""Ask a video that is already there: load a model once, ask as often as you like.

vlm = load("embedded")
answer = vlm.ask("talk.mp4", "Who opens the door?", recipe="fastvid", keep_ratio=0.1)
print(answer.text, answer.stats.tokens_kept)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.metrics.flops import DecoderShape
from streamprune.metrics.memory import PeakMemory
from streamprune.models.attach import attach_to_prompt, check_inside
from streamprune.models.base import VideoFamily
from streamprune.models.chat_template import check_question
from streamprune.models.generation import check_context, generate
from streamprune.models.loading import load_model
from streamprune.models.question_signals import with_question
from streamprune.models.signals import Signals
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.answers import Answer, AnswerStream, Stats
from streamprune.pipelines.encoding import EncodedVideo, Encoding, Progress, encode_video
from streamprune.pipelines.job import Job, Reduced, stats_of
from streamprune.pipelines.request import (
    AnswerRequest,
    FrameRequest,
    read_encoder,
    read_questions,
    read_recipe,
)
from streamprune.pipelines.stopwatch import wait_for
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import Reducer, run_reducer

if TYPE_CHECKING:
    import torch

    from streamprune.frames import FrameMethod
    from streamprune.positions import PositionRule, Positions
    from streamprune.recipe import Recipe
    from streamprune.tokens import VideoGrid

__all__ = ["Answer", "AnswerStream", "EncodedVideo", "Stats", "VideoLLM", "load"]


def load(
    name: str | Path = "embedded",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: Any = None,
    quantization_config: Any = None,
    pooling_head: str | Path | None = None,
) -> VideoLLM:
    """Load a model to ask; see :func:`streamprune.models.loading.load_model` for the arguments and errors."""
    return VideoLLM(
        load_model(
            name,
            device=device,
            dtype=dtype,
            attn_implementation=attn_implementation,
            device_map=device_map,
            quantization_config=quantization_config,
            pooling_head=pooling_head,
        )
    )


class VideoLLM:
    """A loaded model that answers questions about videos; threads may share it and take turns."""

    def __init__(self, family: VideoFamily) -> None:
        self.family = family
        self._shape = DecoderShape.from_config(family.text_config)

    def __repr__(self) -> str:
        return f"VideoLLM({self.family.checkpoint.name!r}, {self.family.model_type}, {self.family.device})"

    def encode(
        self,
        video: Any,
        *,
        recipe: str | Path | Recipe | None = None,
        frames: str | FrameMethod | None = None,
        num_frames: int | None = None,
        fps: float | Fraction | None = None,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        question: str | None = None,
        signals: Sequence[str] | None = None,
        backend: str = "pyav",
        frames_per_batch: int | None = None,
        progress: Progress | None = None,
    ) -> EncodedVideo:
        """Turn a video into visual tokens once, to ask about it later with :meth:`ask`.

        Args:
            question: what a frames method that reads the question chooses by.
            signals: names of what methods will read later. Default: what costs next to nothing; any other
                signal is computed when a question first needs it, by running the vision tower once more over
                the frames, which are kept for it (384 x 384 pixels: 0.4 MB of main memory each). With names,
                nothing is kept and those are all there will be.
            others: as in :meth:`ask`; of ``recipe`` only the stages frames and encoder count.
        """
        chosen = read_recipe(recipe)
        looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
        if isinstance(signals, str):
            raise InvalidTypeError(f"signals must be a list of names, got the text {signals!r}")
        if question is not None:
            check_question(question)
        wanted = None if signals is None else tuple(signals)
        how = self._how(chosen, backend, frames_per_batch, progress)
        method = looks.method(self.family.default_num_frames)
        return encode_video(self.family, video, method, wanted, how, question=question)

    @overload
    def ask(self, video: Any, question: str, *, stream: Literal[True], **settings: Any) -> AnswerStream: ...
    @overload
    def ask(
        self, video: Any, question: str, *, stream: Literal[False] = False, **settings: Any
    ) -> Answer: ...
    @overload
    def ask(
        self,
        video: Any,
        question: list[str] | tuple[str, ...],
        *,
        stream: Literal[False] = False,
        **settings: Any,
    ) -> list[Answer]: ...

    def ask(
        self,
        video: Any,
        question: str | Sequence[str],
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
        positions: PositionRule | Positions | None = None,
        stream: bool = False,
        backend: str = "pyav",
        frames_per_batch: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Answer | list[Answer] | AnswerStream:
        """Answer one question about ``video``, or several, for which it is decoded and encoded once.

        It is also reduced once, unless the method reads the question.

        Args:
            video: a path, folder of images, uint8 array (frames, rows, cols, 3), list or iterator of
                frames, an open Source, or an :class:`EncodedVideo`, whose frames are chosen already.
            recipe: name of a method or recipe, a path to a .toml file, or a Recipe; None keeps every token.
            keep_ratio: share of the visual tokens KEPT, in (0, 1].
            keep_tokens: number of visual tokens kept; give one of the two.
            frames: a frames method, or the name of one, used in place of the recipe's.
            num_frames: so many (with ``fps``: at most so many); default: what suits the model.
            fps: so many frames a second. start_seconds, end_seconds: look only at this part.
            max_new_tokens: longest answer.
            positions: "keep" leaves tokens at their places in the full prompt, "renumber" closes the gaps,
                "clipped" shortens them; a :class:`streamprune.Positions` says more. None is the recipe's
                choice, or "keep".
            stream: return an AnswerStream of text pieces (one question only).
            backend: library that decodes files.
            frames_per_batch: frames that go through the vision tower at once; the whole clip: bit-exact.
            progress: called with ("decode", "encode" or "generate"; done; total).
            **options: the pre-LLM method's own options, or the in-LLM method's in a recipe without one.

        Raises UsageError, SourceError, SignalError, ContextLengthError or DeviceError.
        """
        chosen = read_recipe(recipe, keep_ratio, keep_tokens)
        looks = FrameRequest(chosen, num_frames, fps, start_seconds, end_seconds, frames)
        request = AnswerRequest(read_questions(question), chosen, options, max_new_tokens, positions)
        if stream and not isinstance(question, str):
            raise InvalidValueError("stream=True takes one question; ask several one after the other")
        how = self._how(chosen, backend, frames_per_batch, progress)
        first = request.questions[0]
        job = self._prepare(video, looks, request, how, first)
        reduced = self._reduce(job, first)
        if stream:
            return AnswerStream(lambda say, stop: self._answer(job, first, reduced, say, stop))
        answers = [self._answer(job, first, reduced)]
        for one in request.questions[1:]:
            if looks.reads_question:
                job = self._prepare(video, looks, request, how, one)
            if looks.reads_question or request.question_needs():
                reduced = self._reduce(job, one)
            answers.append(self._answer(job, one, reduced))
        return answers[0] if isinstance(question, str) else answers

    def _how(
        self, recipe: Recipe, backend: str, frames_per_batch: int | None, progress: Progress | None
    ) -> Encoding:
        batch = self.family.frames_per_batch if frames_per_batch is None else frames_per_batch
        return Encoding(backend, batch, progress, read_encoder(recipe))

    def _prepare(
        self, video: Any, frames: FrameRequest, request: AnswerRequest, how: Encoding, question: str
    ) -> Job:
        """Encode, with the signals the method reads; shared unless frames are chosen by the question."""
        method = request.method()
        check_inside(self.family, request.in_llm())
        peak = PeakMemory(self.family.device).start()
        if isinstance(video, EncodedVideo):
            if frames.says_something:
                raise InvalidValueError(
                    "frames, num_frames, fps, start_seconds and end_seconds cannot be given with an "
                    "EncodedVideo, whose frames are chosen already"
                )
            if how.encoder not in (None, video.encoder):
                raise InvalidValueError(
                    f"the recipe asks for {how.encoder} and the EncodedVideo was encoded with "
                    f"{video.encoder}; encode it again with this recipe, or leave out its encoder stage"
                )
        else:
            video = encode_video(
                self.family,
                video,
                frames.method(self.family.default_num_frames),
                request.needs(),
                how,
                question=question,
                check_grid=lambda so_far: self._check_room(request, method, so_far),
            )
        if isinstance(video.tokens.signals, Signals):
            video.tokens.signals.prepare(request.needs())
        return Job(request, video, method, peak, how.progress)

    def _reduce(self, job: Job, question: str) -> Reduced:
        """Choose the tokens; for methods that read no question, the same for any."""
        started = time.perf_counter()
        names = job.request.question_needs()
        asked = with_question(self.family, question, job.video.tokens, names)
        reduction = run_reducer(job.method, asked.tokens)
        wait_for(reduction.features.device)
        ms = 1000 * (time.perf_counter() - started)
        flops = self._shape.prefill_flops(asked.read_tokens) if asked.read_tokens else 0
        return Reduced(reduction, ms, flops)

    def _check_room(self, request: AnswerRequest, method: Reducer, grid: VideoGrid) -> None:
        """Raise ContextLengthError as soon as so many frames cannot fit, before encoding them for nothing."""
        fixed = max(self.family.fixed_tokens(question, grid.frames) for question in request.questions)
        full = self.family.reach(fixed, grid) if request.placing().rule == "keep" else None
        count = method.count(grid) if isinstance(method, PreLLMMethod) else None
        check_context(self.family, fixed + (count or 0), request.max_new_tokens, full)

    def _answer(
        self,
        job: Job,
        question: str,
        reduced: Reduced,
        say: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Answer:
        request, video = job.request, job.video
        prompt = self.family.prompt(
            question, reduced.reduction, pts_seconds=video.pts_seconds, positions=request.placing()
        )
        check_context(self.family, len(prompt), request.max_new_tokens, prompt.reach)
        with attach_to_prompt(self.family, request.in_llm(), prompt, reduced.reduction) as layers:
            out = generate(
                self.family,
                prompt,
                max_new_tokens=request.max_new_tokens,
                on_text=say,
                stop=stop,
                cache=answer_cache(self.family, request.policy(), prompt, reduced.reduction),
            )
        if job.progress is not None:
            job.progress("generate", len(out.token_ids), len(out.token_ids))
        return Answer(
            text=out.text,
            question=question,
            stats=stats_of(self._shape, job, reduced, prompt, out, layers.tokens(len(prompt))),
            recipe=request.recipe.name,
            pts_seconds=video.pts_seconds,
            warnings=video.warnings,
        )
