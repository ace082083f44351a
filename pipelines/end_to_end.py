"""One answer from a video file, with what every stage took."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from streamprune.metrics.clocks import NOTHING, Clock, Lap, Mark, ProcessorClock, clock_of
from streamprune.metrics.memory import PeakMemory
from streamprune.metrics.paired import Steps
from streamprune.models.attach import attach_to_prompt
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.generation import Generation, generate, generate_batch
from streamprune.models.layer_spans import LayerSpans, decoder_layers, tower_layers
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.answers import Stats
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.encoding import Encoding
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.job import Job, Reduced, stats_of
from streamprune.pipelines.request import AnswerRequest, read_encoder
from streamprune.pipelines.several import go_together
from streamprune.pipelines.stopwatch import Stopwatch
from streamprune.recipe import Recipe

QUESTION = "what colour is the big square?"
# names that the pipeline's stopwatch uses -> ours
_STAGES = {"encode": "tower"}


@dataclass(frozen=True)
class Depths:
    """Layers of a slice, and of the whole model it is a slice of."""

    layers: int
    all_layers: int
    tower_layers: int
    all_tower_layers: int


@dataclass(frozen=True)
class Subject:
    """What is asked about what.

    Args:
        name: of the model.
        family: the model; its answers should never end, so that all are equally long.
        videos: files, one for each answer of a batch.
        num_frames: of each video.
        max_new_tokens: of each answer.
        depths: where the model is a slice; the time inside its layers is then told apart.
        clocks: for what the processor does (decoding), and for what the model's device does.
    """

    name: str
    family: VideoFamily
    videos: tuple[Path, ...]
    num_frames: int
    max_new_tokens: int
    depths: Depths | None = None
    clocks: tuple[Clock, Clock] | None = None

    def request(self, recipe: Recipe) -> AnswerRequest:
        """What ``ask`` would be asked."""
        return AnswerRequest((QUESTION,), recipe, max_new_tokens=self.max_new_tokens)

    def asking(self, recipe: Recipe, laps: Laps) -> Asking:
        """The pipeline's own way to an answer; raises what ``ask`` raises for the recipe."""
        how = Encoding(
            "pyav", self.family.frames_per_batch, encoder=read_encoder(recipe), watch=laps.stopwatch
        )
        return Asking(self.family, self.request(recipe), FrameRequest(recipe, self.num_frames), how)


def endless(family: VideoFamily) -> None:
    """From now on no answer of ``family`` ends before it is as long as allowed."""
    # an id that cannot come up ends no answer
    family.model.generation_config.eos_token_id = int(family.text_config.vocab_size)


@dataclass(frozen=True)
class Run:
    """One answer to each video.

    Attributes:
        laps: by stage, added up over the batch: decode, preprocess, tower, reduce, prefill, steps (all tokens
            after the first), first (from the files to the first token of the last answer), total.
        inside: of tower, prefill and steps what was spent inside layers, of a slice.
        stats: of each answer.
        together: whether the prompts went through the language model side by side.
        peak_bytes: of the model's device beyond what was held before; None where that cannot be told.
    """

    laps: dict[str, Lap]
    inside: dict[str, Lap]
    stats: tuple[Stats, ...]
    together: bool
    peak_bytes: int | None

    def lap(self, stage: str) -> Lap:
        """Nothing for a stage that did not happen."""
        return self.laps.get(stage, NOTHING)


@dataclass
class Laps:
    """Adds up what stages take."""

    host: Clock
    device: Clock
    taken: dict[str, Lap] = field(default_factory=dict)
    inside: dict[str, Lap] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add what the block takes to ``stage``; decoding is the processor's work wherever the model is."""
        clock = self.host if stage == "decode" else self.device
        start = clock.mark()
        yield
        self.add(stage, clock.lap(start, clock.mark()))

    def add(self, stage: str, lap: Lap) -> None:
        """Add ``lap`` to ``stage``."""
        self.taken[stage] = self.taken.get(stage, NOTHING) + lap

    def add_spans(self, stage: str, spans: Sequence[tuple[Mark, Mark]]) -> None:
        """Add what was inside layers."""
        for start, end in spans:
            self.inside[stage] = self.inside.get(stage, NOTHING) + self.device.lap(start, end)

    def stopwatch(self, device: torch.device) -> Stopwatch:
        """What the pipeline tells its stages to."""
        return _Told(device, self)


class _Told(Stopwatch):
    """A stopwatch that passes on what it hears."""

    def __init__(self, device: torch.device, laps: Laps) -> None:
        super().__init__(device)
        self._laps = laps

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Both measure."""
        with self._laps.measure(_STAGES.get(stage, stage)), super().measure(stage):
            yield


@dataclass(frozen=True)
class _Ready:
    """A video ready for the language model."""

    job: Job
    reduced: Reduced


def answer_runner(subject: Subject, recipe: Recipe) -> Callable[[], Steps[Run]]:
    """What answers about the videos of ``subject`` with ``recipe`` and measures it, in two steps.

    First the videos are seen, then the questions answered. On CUDA it is one step: of two answers in turn
    neither could tell how much memory it needs.

    Raises UsageError or UnsupportedModelError where the recipe cannot be carried out, as far as can be told.
    """
    host, device = subject.clocks or (ProcessorClock(), clock_of(subject.family.device))
    subject.asking(recipe, Laps(host, device)).request.method()  # what cannot be built is refused now

    def steps() -> Steps[Run]:
        answering = _Answering(subject, recipe, Laps(host, device))
        answering.see()
        if subject.family.device.type != "cuda":
            yield
        return answering.say()

    return steps


class _Answering:
    """One run."""

    def __init__(self, subject: Subject, recipe: Recipe, laps: Laps) -> None:
        self._subject, self._laps = subject, laps
        self._asking = subject.asking(recipe, laps)
        self._on_gpu = subject.family.device.type == "cuda"
        self._peak, self._most = PeakMemory(subject.family.device), 0
        self._ready: list[_Ready] = []
        self._first: list[Mark] = []
        self._tokens: list[Mark] = []
        self._stats: list[Stats] = []

    @torch.no_grad()
    def see(self) -> None:
        """Decode, preprocess, encode and reduce."""
        subject, laps, clock = self._subject, self._laps, self._laps.device
        self._peak.start()
        begun = clock.mark()
        for video in subject.videos:
            self._note_peak()  # preparing begins to measure anew
            with self._inside("tower"):
                job = self._asking.prepare(video, QUESTION)
            with laps.measure("reduce"):
                reduced = self._asking.reduce(job, QUESTION)
            self._ready.append(_Ready(job, reduced))
        laps.add("seeing", clock.lap(begun, clock.mark()))

    @torch.no_grad()
    def say(self) -> Run:
        """Answer."""
        laps, clock, ready = self._laps, self._laps.device, self._ready
        together = len(ready) == 1 or go_together(self._asking)
        begun = clock.mark()
        for group in [ready] if together else [[one] for one in ready]:
            self._answer(group)
        seeing = laps.taken.pop("seeing")
        laps.add("first", seeing + clock.lap(begun, self._first[-1]))
        laps.add("total", seeing + clock.lap(begun, clock.mark()))
        self._note_peak()
        most = self._most if self._on_gpu else None
        return Run(laps.taken, laps.inside, tuple(self._stats), together, most)

    def _note_peak(self) -> None:
        """On the CPU it would be no peak: memory that earlier work left behind is used again unseen."""
        if self._on_gpu:
            self._most = max(self._most, self._peak.read())

    def _answer(self, group: Sequence[_Ready]) -> None:
        laps, clock, asking = self._laps, self._laps.device, self._asking
        self._tokens = []
        started = clock.mark()
        prompts = [asking.prompt(one.job, QUESTION, one.reduced) for one in group]
        with self._inside("prefill", "steps"):
            if len(group) == 1:
                outs, layer_tokens = self._alone(group[0], prompts[0])
            else:
                outs = generate_batch(
                    asking.family,
                    prompts,
                    max_new_tokens=asking.request.max_new_tokens,
                    on_token=self._note_token,
                )
                layer_tokens = None
        self._first.append(self._tokens[0])
        laps.add("prefill", clock.lap(started, self._tokens[0]))
        laps.add("steps", clock.lap(self._tokens[0], self._tokens[-1]))
        for one, prompt, out in zip(group, prompts, outs, strict=True):
            stats = stats_of(
                asking.shape, one.job, one.reduced, len(prompt), out, layer_tokens, rows=len(group)
            )
            self._stats.append(stats)

    def _alone(self, one: _Ready, prompt: Prompt) -> tuple[list[Generation], Sequence[int] | None]:
        """The answer, and how many tokens each layer took where not all took all."""
        asking, reduction = self._asking, one.reduced.reduction
        cache = answer_cache(asking.family, asking.request.cache_method(), prompt, reduction)
        with attach_to_prompt(asking.family, asking.request.in_llm(), prompt, reduction) as layers:
            out = generate(
                asking.family,
                prompt,
                max_new_tokens=asking.request.max_new_tokens,
                cache=cache,
                on_token=self._note_token,
            )
        return [out], layers.tokens(len(prompt))

    def _note_token(self) -> None:
        self._tokens.append(self._laps.device.mark())

    @contextmanager
    def _inside(self, stage: str, later: str | None = None) -> Iterator[None]:
        """Of a slice add what is spent inside layers to ``stage``, all calls but the first to ``later``."""
        if self._subject.depths is None:
            yield
            return
        family, laps = self._subject.family, self._laps
        layers = tower_layers(family) if stage == "tower" else decoder_layers(family)
        with ExitStack() as hooks:
            spans = hooks.enter_context(LayerSpans(layers, lambda: laps.device.mark(wait=False)).watch())
            yield
        laps.add_spans(stage, spans if later is None else spans[:1])
        if later is not None:
            laps.add_spans(later, spans[1:])
