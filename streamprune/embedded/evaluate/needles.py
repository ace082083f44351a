"""The suite ``stream``: what memories still know of things that were seen for a moment, long ago."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamprune.benchmarks.item import Item
from streamprune.benchmarks.scoring import Score, score
from streamprune.embedded.evaluate.recorded import Recorded
from streamprune.embedded.evaluate.scoring import CELLS, answered
from streamprune.embedded.evaluate.stream_questions import asked_about, needle_stream
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.world import Question, Stream, StreamQuestion
from streamprune.embedded.world.draw import FRAME_SIDE
from streamprune.metrics.shares import share
from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.preprocessing import Clip
from streamprune.pipelines.evaluation_outcome import Lines, Unwritten
from streamprune.pipelines.live import LiveStream
from streamprune.pipelines.live_options import StreamOptions
from streamprune.registry import get_method, list_methods
from streamprune.tokens import QUESTION_SIGNALS

KEEP_ALL = "keep-all"
EVIDENCE = "evidence-only"
BLIND = "blind"
BASELINES = (KEEP_ALL, EVIDENCE, BLIND)
# enough for keys and values of a frame, and for everything else of a stream
_FRAME_BYTES, _OTHER_BYTES = 100_000, 64_000_000
# frames of the longest clips that the embedded models were shown whole in training
CLIP_FRAMES = 16
# the longest answer of the world has four words
_MAX_NEW_TOKENS = 8
# pictures of which the longest evidence is shown
_EVIDENCE_FRAMES = 16
Progress = Callable[[str, int, int], None]


# entries of a line that make it the only one of its kind
KEY = ("id", "memory", "memory_bytes")


@dataclass(frozen=True)
class Exam:
    """One stream, what is asked about it, and what the tower makes of it."""

    video: Stream
    questions: Sequence[StreamQuestion]
    recorded: Recorded

    @property
    def named(self) -> list[tuple[str, StreamQuestion]]:
        """The questions with an id each."""
        return [(f"{self.video.seed}.{number}", question) for number, question in enumerate(self.questions)]


@dataclass
class Tally:
    """Answers of one memory to all streams.

    Args:
        memory, memory_bytes: which.
        lines: where every answer is noted; what is there already is not asked again.
    """

    memory: str
    memory_bytes: int | None
    lines: Lines
    answers: list[tuple[StreamQuestion, Mapping[str, Any]]] = field(default_factory=list)
    ask_seconds: list[float] = field(default_factory=list)
    push_seconds: list[float] = field(default_factory=list)
    remembers_from: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def figures(self) -> dict[str, Any]:
        """Accuracy over all questions, by age and by type; median milliseconds; bytes."""
        lines = [line for _, line in self.answers]
        found: dict[str, Any] = {**share(line["strict"] for line in lines).entry()}
        found["lenient"] = share(line["lenient"] for line in lines).entry()
        found["unparsed"] = sum(not line["parsed"] for line in lines)
        found |= {name: self._by(name) for name in ("age", "type")}
        if self.push_seconds:
            found |= {
                "ask_ms": round(1000 * float(np.median(self.ask_seconds)), 2),
                "push_ms": round(1000 * float(np.median(self.push_seconds)), 2),
                "remembers_from_seconds": round(float(np.mean(self.remembers_from)), 1),
                "peak_bytes": self.peak_bytes,
            }
        return found

    def _by(self, name: str) -> dict[str, Any]:
        groups: dict[str, list[bool]] = {}
        for question, line in self.answers:
            groups.setdefault(getattr(question, name), []).append(line["strict"])
        return {group: share(rights).entry() for group, rights in sorted(groups.items())}

    def noted(self, name: str, question: StreamQuestion) -> bool:
        """Whether ``question`` was answered before; then it counts again."""
        line = self.lines.done.get((name, self.memory, self.memory_bytes))
        if line is not None:
            self.answers.append((question, line))
        return line is not None

    def note(self, name: str, question: StreamQuestion, text: str | None) -> None:
        """Write down an answer; None is a wrong one that nobody has read."""
        item = Item(id=name, video=Path("stream"), question=question.text, answer=question.answer)
        found = Score(False, False, True) if text is None else score(item, text)
        key = {"id": name, "memory": self.memory, "memory_bytes": self.memory_bytes}
        about = {"set": "stream", "category": question.type, "age": question.age}
        said = {"at_frame": question.at_frame, "text": text, "answer": question.answer, **asdict(found)}
        self.lines.add({**key, **about, **said})
        self.answers.append((question, {**key, **about, **said}))


@dataclass
class Needles:
    """Held-out streams and the model that is asked about them, at ten moments each.

    Args:
        streams: how many.
        frames: of each, one a second.
        questions: of all together.
        progress: told about every moment.
        model: name of an embedded model, or the folder of one that was trained in the same world.
        context_frames: the model is to see no more tokens at once than so many frames have.
        lines: where every answer is noted.
    """

    streams: int = 2
    frames: int = 1800
    questions: int = 200
    progress: Progress | None = None
    model: str = "embedded"
    context_frames: int = CLIP_FRAMES
    lines: Lines = field(default_factory=lambda: Unwritten(KEY))

    @cached_property
    def family(self) -> VideoFamily:
        """The model, behind the verbs of the package."""
        return load_model(self.model, device="cpu")

    @property
    def context_tokens(self) -> int:
        """Visual tokens that the model is to see at once."""
        size = self.family.frame_size(Clip(self.context_frames, FRAME_SIDE, FRAME_SIDE))
        return self.family.grid(self.context_frames, size).tokens

    @cached_property
    def exams(self) -> list[Exam]:
        """The streams, encoded once."""
        found = []
        for seed in range(self.streams):
            video = needle_stream(seed, self.frames)
            count = self.questions * (seed + 1) // self.streams - self.questions * seed // self.streams
            asked = asked_about(video, self.frames, count)
            found.append(Exam(video, asked, Recorded(self.family, video, self.frames, self._signals)))
            self._tell("encode", seed + 1, self.streams)
        return found

    @property
    def _signals(self) -> list[str]:
        """What the reducers that memories bring need to know."""
        brought: set[str] = set()
        for row in list_methods("memory"):
            name = getattr(row.load(), "pre_llm_default", None)
            brought |= set() if name is None else set(get_method("pre_llm", name).needs)
        return sorted(brought.difference(QUESTION_SIGNALS).intersection(self.family.available_signals()))

    def measure(self, memory: str, memory_bytes: int, **options: Any) -> dict[str, Any]:
        """Figures of one memory; ``options`` as of ``vlm.open_stream``."""
        return self._measure(Tally(memory, memory_bytes, self.lines), memory, memory_bytes, **options)

    def _measure(self, tally: Tally, memory: str, memory_bytes: int, **options: Any) -> dict[str, Any]:
        settings = {"gate": False, "fps": 1, "context_tokens": self.context_tokens, **options}
        opened = StreamOptions.read(None, memory, memory_bytes, frame_size=(FRAME_SIDE,) * 2, **settings)
        for done, exam in enumerate(self.exams):
            known = {(name, tally.memory, tally.memory_bytes) for name, _ in exam.named}
            if known <= self.lines.done.keys():
                for name, question in exam.named:
                    tally.noted(name, question)
                continue
            # a method inside the tower needs the tower
            played = opened.encoder() is None
            family = exam.recorded.family if played else self.family
            with LiveStream(family, opened) as live:
                self._watch(live, exam, tally, played, f"{memory} {memory_bytes // 2**20} MB", done)
                stats = live.stats()
            tally.peak_bytes = max(tally.peak_bytes, stats.peak_bytes)
            tally.remembers_from.append(stats.remembers_from_seconds or 0.0)
        return tally.figures()

    def _watch(
        self, live: LiveStream, exam: Exam, tally: Tally, played: bool, label: str, streams_done: int
    ) -> None:
        """Show the stream and ask on the way."""
        blank = np.zeros((FRAME_SIDE, FRAME_SIDE, 3), np.uint8)
        shown = 0
        for done, (name, question) in enumerate(exam.named, 1):
            for number in range(shown, question.at_frame):
                exam.recorded.number = number
                image = blank if played else exam.video.frame(number)
                began = time.perf_counter()
                live.push(image, pts_seconds=exam.video.pts_seconds(number))
                tally.push_seconds.append(time.perf_counter() - began)
            shown = max(shown, question.at_frame)
            if not tally.noted(name, question):
                began = time.perf_counter()
                answer = live.ask(question.text, max_new_tokens=_MAX_NEW_TOKENS)
                tally.ask_seconds.append(time.perf_counter() - began)
                tally.note(name, question, answer.text)
            before = sum(len(one.questions) for one in self.exams[:streams_done])
            self._tell(label, before + done, self.questions)

    def keep_all(self) -> dict[str, Any]:
        """Figures of the memory that holds every frame as it came, in as many bytes as that takes."""
        enough = self.frames * _FRAME_BYTES + _OTHER_BYTES
        return self._measure(Tally(KEEP_ALL, None, self.lines), "keep_all", enough)

    def evidence_only(self) -> dict[str, Any]:
        """Figures of the model on the frames that hold the evidence, and no others."""
        tally = Tally(EVIDENCE, None, self.lines)
        for exam in self.exams:
            for name, question in exam.named:
                shown: set[int] = set()
                for start, stop in question.evidence:
                    shown.update(range(start, min(stop, question.at_frame))[-_EVIDENCE_FRAMES:])
                self._ask_at_once(tally, exam, name, question, sorted(shown))
        return tally.figures()

    def blind(self) -> dict[str, Any]:
        """Figures of the model without a frame."""
        tally = Tally(BLIND, None, self.lines)
        for exam in self.exams:
            for name, question in exam.named:
                self._ask_at_once(tally, exam, name, question, [])
        return tally.figures()

    def _ask_at_once(
        self, tally: Tally, exam: Exam, name: str, question: StreamQuestion, shown: Sequence[int]
    ) -> None:
        """Note whether the right answer is the likeliest from the frames ``shown``."""
        if not tally.noted(name, question):
            right = self._right(exam, question, shown)
            tally.note(name, question, question.answer if right else None)

    @torch.no_grad()
    def _right(self, exam: Exam, question: StreamQuestion, shown: Sequence[int]) -> bool:
        """Whether the answer is right from the frames ``shown``, next to each other."""
        family = self.family
        features = exam.recorded.features(sorted({number // family.frames_per_slice for number in shown}))
        asked = Question(question.text, question.answer, question.type, ())
        slices = len(features)
        return answered(
            ARCHITECTURES[family.model_type],
            family.model,
            [asked],
            max(1, slices * family.frames_per_slice),
            np.arange(slices * CELLS),
            features.flatten(0, 2),
        )[0]

    def _tell(self, label: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(label, done, total)


def loyalty(lines: Mapping[tuple[Any, ...], Mapping[str, Any]], memory: str, memory_bytes: int | None) -> Any:
    """The share of a memory's answers that are those of :data:`KEEP_ALL`, as an entry; None if not known."""
    own = [
        line for line in lines.values() if (line["memory"], line["memory_bytes"]) == (memory, memory_bytes)
    ]
    whole = [lines.get((line["id"], KEEP_ALL, None)) for line in own]
    if not own or any(one is None or line["text"] is None for line, one in zip(own, whole, strict=True)):
        return None
    return share(line["text"] == one["text"] for line, one in zip(own, whole, strict=True) if one).entry()
