"""The suite ``embedded``: what every recipe loses on held-out questions of the embedded world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from streamprune.budget import Budget
from streamprune.embedded.evaluate.recall import evidence_recall
from streamprune.embedded.evaluate.report import exam
from streamprune.embedded.evaluate.scoring import answered
from streamprune.embedded.evaluate.worlds import ORACLE, oracle_choice
from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.world import GROUPS, Clip, Question
from streamprune.embedded.world.draw import FRAME_SIDE
from streamprune.metrics.evidence import purity
from streamprune.metrics.shares import share
from streamprune.models import preprocessing
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.question_signals import with_question
from streamprune.recipe import Recipe
from streamprune.reduce import run_reducer
from streamprune.reduction import Reduction
from streamprune.registry import get_method
from streamprune.tokens import QUESTION_SIGNALS

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Verdict:
    """One question of one clip: right or not, and how much of its evidence was left (None: not known)."""

    question: Question
    right: bool
    recall: float | None


@dataclass
class Suite:
    """Held-out clips and the model that is asked.

    Clips are encoded once, and all questions of a clip are asked in one pass with the right answers before
    them: a question counts as right when every token of its answer is the likeliest, which is when the greedy
    answer is right. For what acts elsewhere than before the language model see :class:`World`.

    Args:
        questions: at least so many, ten per clip.
        frames: of every clip.
        recipes: those that will be measured, of a pre_llm method alone; their methods' signals are computed
            on the way.
        progress: told about every clip.
        model: name of an embedded model, or the folder of one that was trained in the same world.
    """

    questions: int
    frames: int
    recipes: Sequence[Recipe]
    progress: Progress | None = None
    model: str = "embedded"

    def __post_init__(self) -> None:
        needs = {n for r in self.recipes for n in get_method("pre_llm", r.stages["pre_llm"].method).needs}
        self.family.check_signals(sorted(needs))
        self.signals = tuple(sorted(needs.difference(QUESTION_SIGNALS)))

    @property
    def tokens(self) -> int:
        """Visual tokens of every clip."""
        size = self.family.frame_size(preprocessing.Clip(self.frames, FRAME_SIDE, FRAME_SIDE))
        return self.family.grid(self.frames, size).tokens

    @cached_property
    def family(self) -> VideoFamily:
        """The model, behind the verbs of the package."""
        return load_model(self.model, device="cpu")

    @property
    def _architecture(self) -> Architecture:
        return ARCHITECTURES[self.family.model_type]

    @cached_property
    def clips(self) -> list[Clip]:
        """Clips of held-out seeds, textures and wordings."""
        return exam(self.questions, self.frames)

    @cached_property
    def encoded(self) -> list[EncodedFrames]:
        """The clips after the plain tower."""
        return list(self._encode())

    def _encode(self) -> Iterator[EncodedFrames]:
        for done, clip in enumerate(self.clips, 1):
            yield self.family.encode(self.family.preprocess(list(clip.frames)), self.signals)
            if self.progress is not None:
                self.progress("encode", done, len(self.clips))

    def full(self) -> dict[str, Any]:
        """Figures with every token."""
        return self.measure(Recipe.named("none"))

    def measure(self, recipe: Recipe | None, keep_ratio: float | None = 1.0) -> dict[str, Any]:
        """Figures of ``recipe``, or of the oracle (None) at ``keep_ratio``, over all clips.

        ``keep_ratio`` None leaves a recipe the budget of its own.
        """
        verdicts: list[Verdict] = []
        kept: list[int] = []
        for _, reduction, found in self.answers(recipe, keep_ratio):
            verdicts += found
            kept.append(len(reduction))
        return _figures(verdicts) | {"tokens_kept": round(float(np.mean(kept)), 2)}

    def _tell(self, recipe: Recipe | None, keep_ratio: float | None, done: int) -> None:
        if self.progress is not None:
            label = ORACLE if recipe is None else recipe.name
            budget = "" if keep_ratio is None else f" {keep_ratio:g}"
            self.progress(f"{label}{budget}", done, len(self.clips))

    def answers(
        self, recipe: Recipe | None, keep_ratio: float | None
    ) -> Iterator[tuple[Clip, Reduction, list[Verdict]]]:
        """What ``recipe`` (None: the oracle) leaves of every clip, and how its questions are answered."""
        for done, (clip, encoded) in enumerate(zip(self.clips, self.encoded, strict=True), 1):
            for questions, reduction in self._reductions(recipe, keep_ratio, clip, encoded):
                yield clip, reduction, self._ask(clip, questions, reduction)
            self._tell(recipe, keep_ratio, done)

    def _reductions(
        self, recipe: Recipe | None, keep_ratio: float | None, clip: Clip, encoded: EncodedFrames
    ) -> Iterator[tuple[tuple[Question, ...], Reduction]]:
        """The clip's questions with what is left for them; at once unless the method reads the question."""
        times = self.family.slice_times(range(self.frames))
        tokens = encoded.tokens(self.family.signals(encoded.signals), times)
        if recipe is None:
            keep = Budget(keep_ratio).tokens(len(tokens))
            yield clip.questions, oracle_choice(clip, tokens, keep, self._architecture)
            return
        recipe = recipe.with_budget(keep_ratio)
        choice = recipe.stages["pre_llm"]
        extra = {"seed": clip.seed} if choice.method == "random" else {}
        method = recipe.build("pre_llm", **extra)
        asked = [name for name in getattr(method, "needs", ()) if name in QUESTION_SIGNALS]
        if not asked:
            yield clip.questions, run_reducer(method, tokens)
            return
        for question in clip.questions:
            with_it = with_question(self.family, question.text, tokens, asked)
            yield (question,), run_reducer(method, with_it.tokens)

    def _ask(self, clip: Clip, questions: Sequence[Question], reduction: Reduction) -> list[Verdict]:
        # rows that stand for no token take the last place, as in a prompt
        index = torch.where(reduction.index < 0, reduction.grid.tokens - 1, reduction.index)
        places = index.numpy().astype(np.int64)
        right = answered(
            self._architecture, self.family.model, questions, self.frames, places, reduction.features
        )
        recalls = evidence_recall(clip, questions, purity(reduction), self._architecture.slice_frames)
        return [Verdict(*row) for row in zip(questions, right, recalls, strict=True)]


def _figures(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Accuracy with interval, over all questions, by group and by type, and evidence recall."""
    groups: dict[str, list[Verdict]] = {}
    types: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(GROUPS[verdict.question.type], []).append(verdict)
        types.setdefault(verdict.question.type, []).append(verdict)
    return {
        **_entry(verdicts),
        "groups": {name: _entry(found) for name, found in sorted(groups.items())},
        "types": {name: _entry(found) for name, found in sorted(types.items())},
    }


def _entry(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    entry = share(verdict.right for verdict in verdicts).entry()
    recalls = [verdict.recall for verdict in verdicts if verdict.recall is not None]
    return entry | ({"evidence_recall": round(float(np.mean(recalls)), 4)} if recalls else {})
