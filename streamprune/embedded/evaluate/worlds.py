"""Suites of the embedded world: held-out clips as questions of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from streamprune.benchmarks.item import Item
from streamprune.embedded.evaluate.oracle import oracle
from streamprune.embedded.evaluate.recall import Evidence
from streamprune.embedded.evaluate.report import QUESTIONS_PER_CLIP
from streamprune.embedded.evaluate.scoring import CELLS, SIDE, answered
from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.world import GROUPS, Clip, Question, clip
from streamprune.errors import UnknownNameError, UnsupportedModelError
from streamprune.metrics.evidence import purity
from streamprune.metrics.flops import DecoderShape
from streamprune.models.base import VideoFamily
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.evaluation_contenders import Contender
from streamprune.pipelines.evaluation_set import QuestionSet, Reply, asked_alone
from streamprune.pipelines.evaluation_summary import KIND
from streamprune.pipelines.job import Job, Reduced
from streamprune.positions import Positions
from streamprune.readers import Source, open_source
from streamprune.recipe import Recipe
from streamprune.reduction import Reduction
from streamprune.tokens import VisualTokens

ORACLE = "oracle"
# the longest answer of the world has four words
_MAX_NEW_TOKENS = 8
# how much more often the questions are asked that a suite is about
_FOCUS = 1e6


@dataclass(frozen=True)
class Suite:
    """What is asked.

    Attributes:
        frames: of every clip, unless the user says.
        types: of questions; none: all.
        about: for tables of suites.
    """

    frames: int
    types: tuple[str, ...]
    about: str


SUITES = {
    "embedded": Suite(16, (), "everything, clips of 16 frames"),
    "long": Suite(64, (), "everything, clips of 64 frames"),
    "grounding": Suite(16, ("where_needle", "where_main"), "where things are"),
    "reading": Suite(16, ("digit", "digit_color"), "digits that are seen for a frame or two"),
    "counting": Suite(16, ("count",), "how many scenes there are"),
    "motion": Suite(16, ("motion",), "where things move"),
}


def world(name: str, questions: int, frames: int | None, family: VideoFamily) -> World:
    """The suite called ``name`` with so many questions; UnknownNameError for another name."""
    if name not in SUITES:
        raise UnknownNameError.among("suite", name, SUITES)
    suite = SUITES[name]
    shown = suite.frames if frames is None else frames
    clips: dict[str, Clip] = {}
    items: list[Item] = []
    seed = 0
    while len(items) < questions:
        made = _clip(seed, shown, suite.types)
        for number, question in enumerate(made.questions[: questions - len(items)]):
            clips[f"clip-{seed}"] = made
            items.append(
                Item(
                    id=f"{seed}.{number}",
                    video=Path(f"clip-{seed}"),
                    question=question.text,
                    answer=question.answer,
                    category=question.type,
                    tags={KIND: GROUPS[question.type]},
                )
            )
        seed += 1
    return World(name, items, True, _MAX_NEW_TOKENS, family=family, clips=clips)


def _clip(seed: int, frames: int, types: Sequence[str]) -> Clip:
    """A held-out clip with the questions of ``types`` alone."""
    if not types:
        return clip(seed, frames, "eval", QUESTIONS_PER_CLIP)
    made = clip(seed, frames, "eval", QUESTIONS_PER_CLIP, focus=dict.fromkeys(types, _FOCUS))
    return replace(made, questions=tuple(one for one in made.questions if one.type in types))


@dataclass(frozen=True)
class World(QuestionSet):
    """Clips of the world and what is asked about them.

    Recipes of a pre_llm method alone are asked all questions of a clip in one pass with the right answers
    before them: where every token of an answer is the likeliest, that is the greedy answer. The others, and
    what is asked with any other recipe, are answered one by one as a user's would be.
    """

    family: VideoFamily = field(kw_only=True)
    clips: dict[str, Clip] = field(kw_only=True)
    _evidence: dict[str, dict[str, Evidence]] = field(default_factory=dict, repr=False)
    _lengths: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)
    _around: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def frames(self) -> int:
        """Of every clip."""
        return next(iter(self.clips.values())).num_frames

    def open(self, item: Item) -> Source:
        """The clip; an array alone would be taken for one frame a second, and some models read times."""
        made = self._clip(item)
        return open_source(made.render_frames(range(made.num_frames)), fps=made.fps)

    def seed(self, item: Item) -> int:
        """That of the clip."""
        return self._clip(item).seed

    def recalls(
        self, items: Sequence[Item], reduction: Reduction, pts_seconds: Sequence[float]
    ) -> list[float | None]:
        """By the tokens that show what a question is about; not known where pictures are shown otherwise."""
        made, slices, grid = self._clip(items[0]), self._slice_frames, reduction.grid
        whole = -(-made.num_frames // slices)
        if (grid.rows, grid.cols) != (SIDE, SIDE) or (grid.frames != whole and slices > 1):
            return [None] * len(items)
        share = np.zeros((whole, CELLS), np.float32)
        shown = np.rint(np.asarray(pts_seconds) * made.fps).astype(int) if slices == 1 else np.arange(whole)
        share[shown] = purity(reduction).reshape(-1, CELLS)
        flat = share.reshape(-1)
        return [self._evidence_of(item).recall(flat) for item in items]

    def _evidence_of(self, item: Item) -> Evidence:
        """The same for everybody who answers; of one clip at a time."""
        if item.video.name not in self._evidence:
            self._evidence.clear()
        known = self._evidence.setdefault(item.video.name, {})
        if item.id not in known:
            known[item.id] = Evidence.of(self._clip(item), self._question(item), self._slice_frames)
        return known[item.id]

    def replies(self, asking: Asking, job: Job, reduced: Reduced, items: Sequence[Item]) -> Iterator[Reply]:
        """See the class."""
        if not self._is_packed(asking, reduced):
            yield from super().replies(asking, job, reduced, items)
            return
        began = time.perf_counter()
        architecture, grid = ARCHITECTURES[self.family.model_type], reduced.reduction.grid
        # rows that stand for no token take the last place, as in a prompt
        index = torch.where(reduced.reduction.index < 0, grid.tokens - 1, reduced.reduction.index)
        rights = answered(
            architecture,
            self.family.model,
            [self._question(item) for item in items],
            grid.frames * architecture.slice_frames,
            index.numpy().astype(np.int64),
            reduced.reduction.features,
        )
        shape, kept = asking.shape, len(reduced.reduction)
        ms = 1000 * (time.perf_counter() - began) / len(items)
        for item, right in zip(items, rights, strict=True):
            if right:
                yield Reply(str(item.answer), *self._cost(item, shape, kept, grid.frames), ms)
            else:
                alone = asked_alone(asking, job, reduced, self.prompt(item))
                yield replace(alone, ms=ms + alone.ms)

    def oracle(self, keep_ratio: float) -> Contender:
        """What the world itself would keep, knowing where everything is."""
        if self.family.model_type not in ARCHITECTURES:
            raise UnsupportedModelError(
                f"the oracle knows the grids of {', '.join(ARCHITECTURES)} alone, not that of "
                f"{self.family.model_type}; leave out {ORACLE!r}"
            )
        architecture = ARCHITECTURES[self.family.model_type]
        recipe = Recipe(ORACLE, Recipe.named("none").stages).with_budget(keep_ratio)

        def choose(item: Item, tokens: VisualTokens) -> Reduction:
            keep = recipe.budget.tokens(len(tokens))
            return oracle_choice(self._clip(item), tokens, keep, architecture)

        return Contender(ORACLE, recipe, keep_ratio, choose=choose)

    def _cost(self, item: Item, shape: DecoderShape, kept: int, frames: int) -> tuple[int, int]:
        """Operations for the prompt, and bytes of the cache after the right answer, asked alone."""
        if item.id not in self._lengths:
            self._lengths[item.id] = self._words(item.question), self._words(str(item.answer))
        asked, said = self._lengths[item.id]
        if frames not in self._around:  # the world's words are tokenized one by one
            self._around[frames] = self.family.fixed_tokens(item.question, frames) - asked
        prompt = self._around[frames] + asked + kept
        entry_bytes = 2 * shape.layers * shape.key_value_width * self.family.model.dtype.itemsize
        # the last token of an answer, its end, is never put into the cache
        return shape.prefill_flops(prompt), (prompt + said) * entry_bytes

    def _words(self, text: str) -> int:
        return len(self.family.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def _slice_frames(self) -> int:
        return self.family.frames_per_slice

    def _clip(self, item: Item) -> Clip:
        return self.clips[item.video.name]

    def _question(self, item: Item) -> Question:
        return self._clip(item).questions[int(item.id.partition(".")[2])]

    def _is_packed(self, asking: Asking, reduced: Reduced) -> bool:
        """Whether all questions of a clip can be answered in one pass."""
        recipe, grid = asking.request.recipe, reduced.reduction.grid
        alone = set(recipe.stages) <= {"pre_llm"} and recipe.positions == Positions()
        known = self.family.model_type in ARCHITECTURES and (grid.rows, grid.cols) == (SIDE, SIDE)
        return alone and known


def oracle_choice(made: Clip, tokens: VisualTokens, keep: int, architecture: Architecture) -> Reduction:
    """The best ``keep`` of ``tokens`` for whatever may be asked about ``made``."""
    things = made.coverage.reshape(len(made.script.things), -1, CELLS)
    return Reduction.select(tokens, torch.from_numpy(oracle(architecture.per_slice(things), keep)))
