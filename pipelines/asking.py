"""From a video and a question to an answer: what single questions, chats and batches of videos share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streamprune.errors import InvalidValueError
from streamprune.metrics.flops import DecoderShape
from streamprune.metrics.memory import PeakMemory
from streamprune.models.attach import attach_to_prompt, check_inside
from streamprune.models.attachment import LayerTokens
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.generation import check_context, generate
from streamprune.models.question_signals import with_question
from streamprune.models.signals import Signals
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.answers import Answer, Stats
from streamprune.pipelines.encoding import EncodedVideo, Encoding
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.job import Job, Reduced, stats_of
from streamprune.pipelines.request import AnswerRequest
from streamprune.pipelines.stopwatch import wait_for
from streamprune.pipelines.stored_encoding import encode_or_fetch
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.reduce import Reducer, run_reducer
from streamprune.tokens import VideoGrid


@dataclass(frozen=True)
class Answered:
    """An answer, with what the language model was given for it and made of it.

    Attributes:
        prompt: what entered the language model.
        layers: which rows of it each layer took.
        cache: the key-value cache after the answer.
    """

    answer: Answer
    prompt: Prompt
    layers: LayerTokens
    cache: Any = field(repr=False)


@dataclass(frozen=True)
class Asking:
    """How the questions of one call are answered.

    Args:
        family: the model.
        request: the questions, as far as they are known, and what to answer them from.
        frames: which frames to look at.
        how: how videos are encoded.
    """

    family: VideoFamily
    request: AnswerRequest
    frames: FrameRequest
    how: Encoding

    @property
    def shape(self) -> DecoderShape:
        """Sizes of the language model."""
        return DecoderShape.from_config(self.family.text_config)

    @property
    def each_reduces(self) -> bool:
        """Whether what is left of a video depends on the question."""
        return self.frames.reads_question or bool(self.request.question_needs())

    def prepare(self, video: Any, question: str) -> Job:
        """Encode, with the signals the method reads; shared unless frames are chosen by the question."""
        request, method = self.request, self.request.method()
        check_inside(self.family, request.in_llm())
        peak = PeakMemory(self.family.device).start()
        if isinstance(video, EncodedVideo):
            self._check_encoded(video)
        else:
            video = encode_or_fetch(
                self.family,
                video,
                self.frames.method(self.family.default_num_frames),
                request.needs(),
                self.how,
                question=question,
                check_grid=lambda so_far: self._check_room(method, so_far),
            )
        if isinstance(video.tokens.signals, Signals):
            video.tokens.signals.prepare(request.needs())
        return Job(request, video, method, peak, self.how.progress)

    def _check_encoded(self, video: EncodedVideo) -> None:
        if self.frames.says_something:
            raise InvalidValueError(
                "frames, num_frames, fps, start_seconds and end_seconds cannot be given with an "
                "EncodedVideo, whose frames are chosen already"
            )
        if self.how.encoder not in (None, video.encoder):
            raise InvalidValueError(
                f"the recipe asks for {self.how.encoder} and the EncodedVideo was encoded with "
                f"{video.encoder}; encode it again with this recipe, or leave out its encoder stage"
            )

    def _check_room(self, method: Reducer, grid: VideoGrid) -> None:
        """Raise ContextLengthError as soon as so many frames cannot fit, before encoding them for nothing."""
        request = self.request
        # of a chat no question may be known yet: the shortest
        questions = request.questions or ("?",)
        fixed = max(self.family.fixed_tokens(question, grid.frames) for question in questions)
        full = self.family.reach(fixed, grid) if request.placing().rule == "keep" else None
        count = method.count(grid) if isinstance(method, PreLLMMethod) else None
        check_context(self.family, fixed + (count or 0), request.max_new_tokens, full)

    def reduce(self, job: Job, question: str) -> Reduced:
        """Choose the tokens; for methods that read no question, the same for any."""
        started = time.perf_counter()
        names = job.request.question_needs()
        asked = with_question(self.family, question, job.video.tokens, names)
        reduction = run_reducer(job.method, asked.tokens)
        wait_for(reduction.features.device)
        ms = 1000 * (time.perf_counter() - started)
        flops = self.shape.prefill_flops(asked.read_tokens) if asked.read_tokens else 0
        return Reduced(reduction, ms, flops)

    def prompt(self, job: Job, question: str, reduced: Reduced) -> Prompt:
        """The prompt for ``question``; ContextLengthError unless it fits with an answer."""
        prompt = self.family.prompt(
            question,
            reduced.reduction,
            pts_seconds=job.video.pts_seconds,
            positions=self.request.placing(),
        )
        check_context(self.family, len(prompt), self.request.max_new_tokens, prompt.reach)
        return prompt

    def answer(
        self,
        job: Job,
        question: str,
        reduced: Reduced,
        say: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Answer:
        """Answer ``question`` from what is left of the video."""
        return self.carry_out(job, question, reduced, self.prompt(job, question, reduced), say, stop).answer

    def carry_out(
        self,
        job: Job,
        question: str,
        reduced: Reduced,
        prompt: Prompt,
        say: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Answered:
        """:meth:`answer`, with what became of the ``prompt`` made for it."""
        request = self.request
        with attach_to_prompt(self.family, request.in_llm(), prompt, reduced.reduction) as layers:
            out = generate(
                self.family,
                prompt,
                max_new_tokens=request.max_new_tokens,
                sampling=request.sampling,
                on_text=say,
                stop=stop,
                cache=answer_cache(self.family, request.cache_method(), prompt, reduced.reduction),
            )
        stats = stats_of(self.shape, job, reduced, len(prompt), out, layers.tokens(len(prompt)))
        return Answered(self.told(job, question, out.text, stats), prompt, layers, out.cache)

    def told(self, job: Job, question: str, text: str, stats: Stats) -> Answer:
        """The answer, after telling ``progress`` that it is there."""
        self.how.report("generate", stats.new_tokens, stats.new_tokens)
        return Answer(
            text=text,
            question=question,
            stats=stats,
            recipe=self.request.recipe.name,
            pts_seconds=job.video.pts_seconds,
            warnings=job.video.warnings,
        )
