"""The recipes and shares that are compared. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.checks import check_count, check_share
from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.journal import fingerprint
from streamprune.pipelines.request import AnswerRequest, read_encoder, read_recipe
from streamprune.pipelines.tuning_chances import Ladder
from streamprune.recipe import Choice, Recipe
from streamprune.registry import Stage, get_methods

if TYPE_CHECKING:
    from streamprune.models.base import VideoFamily

RECIPES = ("streamprune", "fastvid", "holitom", "divprune", "vidcom2", "visionzip", "stride")
KEEP_RATIOS = (0.5, 0.35, 0.25, 0.15, 0.1, 0.05)


@dataclass(frozen=True)
class Candidate:
    """One way to answer.

    Args:
        recipe: with its budget.
        num_frames: so many frames; None is what suits the model, or what the recipe says.
    """

    recipe: Recipe
    num_frames: int | None = None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    @property
    def keep(self) -> str:
        """The budget as people read it."""
        budget = self.recipe.budget
        if budget.keep_tokens is not None:
            return f"{budget.keep_tokens} tokens"
        return "" if budget.keep_ratio is None else f"{budget.keep_ratio:g}"

    @property
    def id(self) -> str:
        """The same for the same candidate, for whatever list of them and in any run."""
        frames = "" if self.num_frames is None else f" {self.num_frames} frames"
        return f"{self.name} {self.keep}{frames} {fingerprint({'recipe': self.recipe.to_toml()})[:8]}"

    @property
    def written(self) -> Recipe:
        """The recipe that says all of it, frames included."""
        if self.num_frames is None:
            return self.recipe
        chosen = FrameRequest(self.recipe, self.num_frames).method(1)
        before = self.recipe.stages.get("frames", Choice("uniform"))
        option = "max_frames" if hasattr(chosen, "max_frames") else "num_frames"
        frames = Choice(before.method, {**before.options, option: self.num_frames})
        return replace(self.recipe, stages={"frames": frames, **_without_frames(self.recipe)})

    def needs(self) -> tuple[str, ...]:
        """Signals of the video that its method reads."""
        return AnswerRequest((), self.recipe).needs()


def _without_frames(recipe: Recipe) -> dict[Stage, Choice]:
    return {stage: choice for stage, choice in recipe.stages.items() if stage != "frames"}


def list_candidates(
    recipes: Sequence[str | Path | Recipe] | None = None,
    keep_ratios: Sequence[float] | None = None,
    num_frames: Sequence[int] | None = None,
) -> list[Candidate]:
    """Every recipe at every share; one with a budget of its own, or without a use for one, as it is.

    Args:
        recipes: default :data:`RECIPES`.
        keep_ratios: shares KEPT, in (0, 1]; default :data:`KEEP_RATIOS`.
        num_frames: also with each of these numbers of frames.

    Raises UnknownNameError, RecipeError or InvalidValueError.
    """
    ratios = sorted(set(KEEP_RATIOS if keep_ratios is None else keep_ratios), reverse=True)
    for ratio in ratios:
        check_share("keep_ratio", ratio)
    for count in num_frames or ():
        check_count("num_frames", count)
    chosen = [read_recipe(one) for one in (RECIPES if recipes is None else recipes)]
    found: list[Candidate] = []
    for frames in sorted(set(num_frames), reverse=True) if num_frames else [None]:
        for recipe in chosen:
            free = recipe.takes_budget and not recipe.budget.is_given
            found += [Candidate(recipe.with_budget(one), frames) for one in (ratios if free else [None])]
    return check_candidates(found)


def check_candidates(candidates: Sequence[Candidate]) -> list[Candidate]:
    """All of them, when there are any and no two are the same; InvalidValueError otherwise."""
    if not candidates:
        raise InvalidValueError("tune needs at least one candidate: name a recipe and a keep_ratio")
    ids = [one.id for one in candidates]
    for one in candidates:
        AnswerRequest((), one.recipe).method()
        read_encoder(one.recipe)
        if FrameRequest(one.recipe, one.num_frames).reads_question:
            raise InvalidValueError(
                f"{one.name} chooses frames by the question, and tune encodes every video once for all "
                "questions: leave its [frames] stage out while tuning"
            )
        if ids.count(one.id) > 1:
            raise InvalidValueError(f"the candidate {one.name} {one.keep} is there twice; name it once")
    return list(candidates)


def default_candidates(family: VideoFamily, candidates: Sequence[Candidate] | None = None) -> list[Candidate]:
    """Those of ``candidates`` (default :func:`list_candidates`) that ``family`` can run.

    Raises UnsupportedModelError when it can run none.
    """
    given = list_candidates() if candidates is None else candidates
    found = [one for one in given if _runs(one, family)]
    if not found:
        raise UnsupportedModelError(
            f"{family.model_type} models can run none of the recipes "
            f"{', '.join(dict.fromkeys(one.name for one in given))}; name others with --recipe, see "
            f"'streamprune methods --family {family.model_type}'"
        )
    return found


def _runs(candidate: Candidate, family: VideoFamily) -> bool:
    from streamprune.tokens import QUESTION_SIGNALS

    known = {*family.available_signals(), *QUESTION_SIGNALS}
    return all(
        row.runs_on(family.model_type) and (row.stage != "pre_llm" or known.issuperset(row.needs))
        for stage, choice in candidate.recipe.stages.items()
        for row in get_methods(stage, choice.method)
    )


def ladders(candidates: Sequence[Candidate]) -> list[Ladder]:
    """Candidates that differ in the share they keep alone, each group from the smallest share on."""
    groups: dict[tuple[str, int | None], list[int]] = {}
    for number, one in enumerate(candidates):
        bare = replace(one.recipe, budget=type(one.recipe.budget)())
        groups.setdefault((bare.to_toml(), one.num_frames), []).append(number)
    found: list[Ladder] = []
    for members in groups.values():
        by_share = [n for n in members if candidates[n].recipe.budget.keep_ratio is not None]
        by_share.sort(key=lambda n: candidates[n].recipe.budget.keep_ratio or 1.0)
        shares = tuple(candidates[n].recipe.budget.keep_ratio or 1.0 for n in by_share)
        found += [Ladder(tuple(by_share), shares)] if by_share else []
        found += [Ladder((n,), (1.0,)) for n in members if n not in by_share]
    return found
