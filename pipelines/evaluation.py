"""Ask a model every question of a set, whole and reduced, and note every answer as soon as it is there.

questions = QuestionSet("own", [job.item for job in read_jobs("jobs.jsonl")])
contenders = [Contender.full(), *read_contenders(["fastvid"], [0.25])]
with Journal.open("answers.jsonl", run=run_of(vlm.family, questions, 32), key=KEY) as journal:
    outcome = Evaluation(vlm, questions, contenders, num_frames=32).run(journal)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from streamprune.benchmarks.item import Item
from streamprune.errors import ContextLengthError, InvalidValueError, SourceError
from streamprune.models.attach import check_inside
from streamprune.models.base import VideoFamily
from streamprune.models.fingerprint import fingerprint as weights_of
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.encoding import EncodedVideo, Encoding
from streamprune.pipelines.evaluation_contenders import KEY, Contender, baseline, order_of
from streamprune.pipelines.evaluation_outcome import Lines, Outcome, Unread
from streamprune.pipelines.evaluation_screen import Looks, Screen, View, missing_baselines
from streamprune.pipelines.evaluation_set import QuestionSet
from streamprune.pipelines.evaluation_source import UpToNow
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.job import Job, Reduced
from streamprune.pipelines.journal import fingerprint
from streamprune.pipelines.offline import VideoLLM

Progress = Callable[[str, int, int], None]
# a contender and the questions that it has not answered yet
Todo = list[tuple[Contender, list[Item]]]


def run_of(family: VideoFamily, questions: QuestionSet, looks: Looks) -> str:
    """The fingerprint of a journal: what its lines were asked of, except which contenders answered."""
    settings = {
        "model": weights_of(family),
        "dtype": str(family.model.dtype),
        "set": questions.name,
        "questions": questions.digest,
        "max_new_tokens": questions.max_new_tokens,
        "frames": [looks.num_frames, looks.fps],
    }
    return fingerprint(settings)


@dataclass
class Evaluation:
    """One run: every video is opened once, and encoded once for all that see the same of it.

    Args:
        vlm: the model.
        questions: what is asked.
        contenders: who answers.
        looks: which frames are shown; recipes with a frames stage choose their own.
        baselines: also ask what has to be beaten, at as many tokens as each contender keeps.
        limit: ask so many of the questions only, see :meth:`QuestionSet.first`.
        progress: called with ("ask", questions so far, all).

    A question that does not fit the model's context is noted as refused. Of a video that cannot be read no
    question counts. Raises RecipeError when a frames method looks at what is later than a streaming question,
    and UsageError for contenders that cannot run on the model, before anything is asked.
    """

    vlm: VideoLLM
    questions: QuestionSet
    contenders: Sequence[Contender]
    looks: Looks = field(default_factory=Looks)
    baselines: bool = True
    limit: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for contender in self.contenders:
            self._family.check_signals(contender.needs)
            check_inside(self._family, contender.request(0, 1).in_llm())
            self.looks.request(contender.recipe)

    @property
    def _family(self) -> VideoFamily:
        return self.vlm.family

    def run(self, lines: Lines) -> Outcome:
        """Ask what ``lines`` does not hold yet."""
        items = self.questions.first(self.limit)
        notes = missing_baselines(self._family) if self.baselines else {}
        run = _Run(self, lines, Outcome(items, self.contenders, lines.done, notes=notes))
        began, asked = time.perf_counter(), 0
        for part in _parts(items):
            run.ask_part(part)
            asked += len(part)
            if self.progress is not None:
                self.progress("ask", asked, len(items))
        run.outcome.seconds = time.perf_counter() - began
        lines.finish(order_of(items, self.contenders, lines.done))
        return run.outcome


def _parts(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Questions about the same part of the same video, wherever they stand in the set."""
    parts: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        key = item.video, item.fps, item.start_seconds, item.end_seconds, item.streaming
        parts.setdefault(key, []).append(item)
    yield from parts.values()


def _needs(contenders: Iterable[Contender]) -> list[str]:
    """Signals of a video that any of them reads."""
    return sorted({name for who in contenders for name in who.needs})


@dataclass
class _Run:
    """An evaluation while it is carried out."""

    of: Evaluation
    lines: Lines
    outcome: Outcome

    def ask_part(self, items: list[Item]) -> None:
        """All questions about one part of one video; none of them counts when it cannot be read."""
        todo = self._left([(contender, items) for contender in self.of.contenders])
        if not todo and not self._left(self._equals(items)):
            return
        try:
            with self._screen(items[0]) as screen:
                self._ask_all(todo, screen)
                self._ask_all(self._left(self._equals(items)), screen)
                self.outcome.stage_seconds += screen.seconds
        except (SourceError, _UnusableError) as error:
            unread = Unread(str(items[0].video), str(error), tuple(item.id for item in items))
            self.outcome.unread.append(unread)

    @contextmanager
    def _screen(self, item: Item) -> Iterator[Screen]:
        """The video of ``item``, encoded as the full model sees it."""
        now, began = item.end_seconds if item.streaming else None, time.perf_counter()
        try:
            source = self.of.questions.open(item)
            opening = time.perf_counter() - began
        except InvalidValueError as error:
            raise _UnusableError(str(error)) from error
        with UpToNow(source, now) as shown:
            needs = _needs(self.of.contenders)
            screen = Screen(self.of.vlm.family, shown, self.of.looks, item, needs, now, opening)
            try:
                screen.main  # noqa: B018  what cannot be shown at all is found here
            except InvalidValueError as error:
                raise _UnusableError(str(error)) from error
            yield screen

    def _left(self, wanted: Todo) -> Todo:
        done = self.lines.done
        found = [(who, [item for item in items if who.key(item.id) not in done]) for who, items in wanted]
        return [(who, items) for who, items in found if items]

    def _equals(self, items: Sequence[Item]) -> Todo:
        """Baselines with as many tokens as the contenders kept of each of ``items``."""
        wanted: dict[tuple[str, int], tuple[Contender, dict[str, Item]]] = {}
        for who in self.of.contenders if self.of.baselines else ():
            for item in items:
                tokens = self.lines.done.get(who.key(item.id), {}).get("equal_tokens")
                if tokens is None:
                    continue
                for name in self.outcome.baselines:
                    if self.outcome.stand_in(name, item, tokens) is not None:
                        continue
                    found = wanted.setdefault((name, tokens), (baseline(name, tokens), {}))
                    found[1][item.id] = item
        return [(who, list(asked.values())) for who, asked in wanted.values()]

    def _ask_all(self, todo: Todo, screen: Screen) -> None:
        """Ask ``todo``, those that see the same after one another."""
        views: list[tuple[View, Todo]] = []
        for who, items in todo:
            view = screen.view(who)
            if isinstance(view, str):
                self._refuse(who, items, view)
                continue
            group = next((group for known, group in views if known == view), None)
            if group is None:
                views.append((view, [(who, items)]))
            else:
                group.append((who, items))
        for view, group in views:
            needs = _needs(who for who, _ in group)
            for question, some in self._by_question(view, group):
                video = screen.encode(view, needs, question)
                for who, items in some:
                    self._ask(who, items, video, screen)

    def _by_question(self, view: View, group: Todo) -> Iterator[tuple[str | None, Todo]]:
        """The whole group, or, where frames are chosen by the question, each question for itself."""
        if "relevance" not in view.frames.needs:
            yield None, group
            return
        for who, items in group:
            for item in items:
                yield self.of.questions.prompt(item), [(who, [item])]

    def _ask(self, who: Contender, items: list[Item], video: EncodedVideo, screen: Screen) -> None:
        questions, family = self.of.questions, self.of.vlm.family
        request = who.request(questions.seed(items[0]), questions.max_new_tokens)
        how = Encoding("pyav", family.frames_per_batch)
        asking = Asking(family, request, FrameRequest(who.recipe), how)
        began = time.perf_counter()
        job = asking.prepare(video, questions.prompt(items[0]))
        self.outcome.stage_seconds += time.perf_counter() - began
        for some in [[item] for item in items] if asking.each_reduces else [items]:
            try:
                reduced = self._reduce(who, asking, job, some[0])
                kept = len(reduced.reduction)
                equal = None if who.is_baseline else who.equal_tokens(kept, screen.grid)
                self._note(who, asking, job, reduced, some, equal)
            except ContextLengthError as error:
                self._refuse(who, self._left([(who, some)])[0][1], str(error))

    def _reduce(self, who: Contender, asking: Asking, job: Job, item: Item) -> Reduced:
        began = time.perf_counter()
        if who.choose is None:
            reduced = asking.reduce(job, self.of.questions.prompt(item))
        else:
            reduced = Reduced(who.choose(item, job.video.tokens), 0.0, 0)
        self.outcome.stage_seconds += time.perf_counter() - began
        return reduced

    def _note(
        self, who: Contender, asking: Asking, job: Job, reduced: Reduced, items: list[Item], equal: int | None
    ) -> None:
        """Ask ``items`` and write their lines."""
        questions, grid = self.of.questions, reduced.reduction.grid
        recalls: list[float | None] = [None] * len(items)
        # what a method drops inside the language model is not seen here
        if {"in_llm", "kv"}.isdisjoint(who.recipe.stages):
            recalls = questions.recalls(items, reduced.reduction, job.video.pts_seconds)
        replies = questions.replies(asking, job, reduced, items)
        for item, recall, reply in zip(items, recalls, replies, strict=True):
            self.outcome.stage_seconds += reply.ms / 1000
            found = {
                "text": reply.text,
                "answer": item.answer,
                **questions.judge(item, reply.text),
                "frames": grid.frames,
                "tokens_in": grid.tokens,
                "tokens_kept": len(reduced.reduction),
                "equal_tokens": equal,
                "evidence_recall": None if recall is None else round(recall, 4),
                "prefill_flops": reply.prefill_flops,
                "kv_bytes": reply.kv_bytes,
            }
            self._add(who, item, found)

    def _refuse(self, who: Contender, items: Sequence[Item], reason: str) -> None:
        for item in items:
            self._add(who, item, {"text": None, "answer": item.answer, "refused": reason})

    def _add(self, who: Contender, item: Item, found: Mapping[str, Any]) -> None:
        self.outcome.asked += 1
        key = dict(zip(KEY, who.key(item.id), strict=True))
        self.lines.add({**key, "set": self.of.questions.name, "category": item.category, **found})


class _UnusableError(Exception):
    """A video of which nothing can be shown; never leaves this module."""
