"""The suite ``embedded``: what every recipe loses on held-out questions of the embedded world."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamprune.embedded.evaluate.intervals import share
from streamprune.embedded.evaluate.oracle import oracle
from streamprune.embedded.evaluate.recall import evidence_recall, purity
from streamprune.embedded.evaluate.report import exam
from streamprune.embedded.evaluate.scoring import CELLS, answered
from streamprune.embedded.world import GROUPS, Clip, Question
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.question_signals import with_question
from streamprune.recipe import Recipe
from streamprune.reduce import run_reducer
from streamprune.reduction import Reduction
from streamprune.registry import get_method
from streamprune.tokens import QUESTION_SIGNALS, VisualTokens

KEEP_RATIOS = (0.5, 0.25, 0.1, 0.05)
ORACLE = "oracle"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Verdict:
    """One question of one clip: right or not, and how much of its evidence was left."""

    question: Question
    right: bool
    recall: float


@dataclass
class Suite:
    """Held-out clips, encoded once, and the model that is asked.

    Args:
        questions: at least so many, ten per clip.
        frames: of every clip.
        recipes: those that will be measured; their methods' signals are computed on the way.
        progress: told about every clip.
    """

    questions: int
    frames: int
    recipes: Sequence[Recipe]
    progress: Progress | None = None

    def __post_init__(self) -> None:
        needs = {n for r in self.recipes for n in get_method("pre_llm", r.stages["pre_llm"].method).needs}
        self.family.check_signals(sorted(needs))
        self.signals = tuple(sorted(needs.difference(QUESTION_SIGNALS)))

    @property
    def tokens(self) -> int:
        """Visual tokens of every clip."""
        return self.family.grid(self.frames).tokens

    @cached_property
    def family(self) -> VideoFamily:
        """The embedded model."""
        return load_model("embedded", device="cpu")

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

    def measure(self, recipe: Recipe | None, keep_ratio: float = 1.0) -> dict[str, Any]:
        """Figures of ``recipe``, or of the oracle (None) at ``keep_ratio``, over all clips."""
        verdicts: list[Verdict] = []
        kept: list[int] = []
        for _, reduction, found in self.answers(recipe, keep_ratio):
            verdicts += found
            kept.append(len(reduction))
        return _figures(verdicts) | {"tokens_kept": round(float(np.mean(kept)), 2)}

    def answers(
        self, recipe: Recipe | None, keep_ratio: float
    ) -> Iterator[tuple[Clip, Reduction, list[Verdict]]]:
        """What ``recipe`` (None: the oracle) leaves of every clip, and how its questions are answered."""
        label = ORACLE if recipe is None else recipe.name
        for done, (clip, encoded) in enumerate(zip(self.clips, self.encoded, strict=True), 1):
            for questions, reduction in self._reductions(recipe, keep_ratio, clip, encoded):
                yield clip, reduction, self._ask(clip, questions, reduction)
            if self.progress is not None:
                self.progress(f"{label} {keep_ratio:g}", done, len(self.clips))

    def _reductions(
        self, recipe: Recipe | None, keep_ratio: float, clip: Clip, encoded: EncodedFrames
    ) -> Iterator[tuple[tuple[Question, ...], Reduction]]:
        """The clip's questions with what is left for them; at once unless the method reads the question."""
        tokens = encoded.tokens(self.family.signals(encoded.signals), tuple(map(float, range(self.frames))))
        if recipe is None:
            yield clip.questions, _oracle(clip, tokens, keep_ratio)
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
        right = answered(self.family.model, questions, self.frames, places, reduction.features)
        recalls = evidence_recall(clip, questions, purity(reduction))
        return [Verdict(*row) for row in zip(questions, right, recalls, strict=True)]


def _oracle(clip: Clip, tokens: VisualTokens, keep_ratio: float) -> Reduction:
    """What the world itself would keep, knowing where everything is."""
    coverage = clip.coverage.reshape(len(clip.script.things), -1, CELLS)
    index: Tensor = torch.from_numpy(oracle(coverage, max(1, round(keep_ratio * len(tokens)))))
    return Reduction.select(tokens, index)


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
    recall = float(np.mean([verdict.recall for verdict in verdicts]))
    return {**share(verdict.right for verdict in verdicts).entry(), "evidence_recall": round(recall, 4)}
