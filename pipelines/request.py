"""What was asked for, checked before anything heavy is loaded or decoded. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError, RecipeError, UnknownNameError
from streamprune.models.chat_template import check_question
from streamprune.models.sampling import GREEDY, Sampling
from streamprune.positions import PositionRule, Positions
from streamprune.recipe import Recipe
from streamprune.registry import Stage, get_methods
from streamprune.tokens import QUESTION_SIGNALS

if TYPE_CHECKING:
    from streamprune.encoder.base import TowerMethod
    from streamprune.in_llm.base import InLLMMethod
    from streamprune.kv.method import CacheMethod
    from streamprune.reduce import Reducer

# ask()'s own settings: a misspelt one arrives among the method's options
ASK_ARGUMENTS = (
    "recipe", "keep_ratio", "keep_tokens", "frames", "num_frames", "fps", "start_seconds", "end_seconds",
    "max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed", "stop", "positions",
    "stream", "backend", "frames_per_batch", "videos_per_batch", "cache", "progress",
)  # fmt: skip


@dataclass(frozen=True)
class AnswerRequest:
    """What to answer, from how many tokens.

    Args:
        questions: at least one.
        recipe: resolved, with its budget.
        options: the pre-LLM method's own options, or the in-LLM method's in a recipe without a pre-LLM one.
        max_new_tokens: longest answer.
        positions: a rule of :class:`Positions` or all of it; None leaves it to the recipe.
        sampling: how words are chosen; its seed is also that of a method that draws.
    """

    questions: tuple[str, ...]
    recipe: Recipe
    options: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 64
    positions: PositionRule | Positions | None = None
    sampling: Sampling = GREEDY

    def __post_init__(self) -> None:
        for question in self.questions:
            check_question(question)
        self.placing()
        check_count("max_new_tokens", self.max_new_tokens)
        method = self.cache_method()
        if self.in_llm() is not None and method is not None:
            check_together(method)

    @property
    def settings(self) -> dict[str, Any]:
        """The same as arguments of ``ask``, but for the questions."""
        return {
            "recipe": self.recipe,
            "max_new_tokens": self.max_new_tokens,
            "positions": self.positions,
            **asdict(self.sampling),
            **self.options,
        }

    def placing(self) -> Positions:
        """Which positions the kept tokens get."""
        return self.recipe.positions if self.positions is None else Positions.read(self.positions)

    def method(self) -> Reducer:
        """The pre-LLM method with its budget; ``none`` when the recipe names none."""
        if "pre_llm" in self.recipe.stages:
            built: Reducer = self._build("pre_llm")
            return built
        from streamprune.pre_llm.none import KeepAll

        if "in_llm" in self.recipe.stages or self._only_kv:
            return KeepAll()
        if self.options:
            raise RecipeError(
                f"the options {sorted(self.options)} belong to no method: the recipe has no [pre_llm] stage"
            )
        if not self.recipe.budget.keeps_all:
            raise RecipeError(
                "keep_ratio and keep_tokens are for the pre_llm stage, which the recipe "
                f"{self.recipe.name!r} does not have; leave them out, or add a [pre_llm] method"
            )
        return KeepAll()

    def in_llm(self) -> InLLMMethod | None:
        """The method inside the language model; None when the recipe names none."""
        if "in_llm" not in self.recipe.stages:
            return None
        if "pre_llm" in self.recipe.stages:
            return read_in_llm(self.recipe)
        return read_in_llm(self.recipe, self._build)

    def _build(self, stage: Stage, **extra: Any) -> Any:
        """The method of ``stage``, made with the options of this call and ``extra`` ones."""
        try:
            return self.recipe.build(stage, **self._seed(stage), **self.options, **extra)
        except UnknownNameError as error:
            meant = [near for option in self.options for near in get_close_matches(option, ASK_ARGUMENTS, 1)]
            if not meant:
                raise
            raise UnknownNameError(f"{error} ask() itself has {meant[0]!r}.") from error

    def _seed(self, stage: Stage) -> dict[str, int]:
        """The seed of this call, if one was given and the method of ``stage`` takes one."""
        seed = self.sampling.seed
        if seed is None:
            return {}
        methods = get_methods(stage, self.recipe.stages[stage].method)
        takes_seed = any("seed" in signature(row.load()).parameters for row in methods)
        return {"seed": seed} if takes_seed else {}

    def cache_method(self) -> CacheMethod | None:
        """The policy for the key-value cache, with its stores; None when the recipe names neither.

        Where nothing else drops tokens it also gets the options of this call and the recipe's budget.
        """
        if not self._only_kv:
            return read_kv(self.recipe)
        budget = self.recipe.budget
        given: dict[str, Any] = {"keep_ratio": budget.keep_ratio, "keep_tokens": budget.keep_tokens}
        extra = {name: value for name, value in given.items() if value is not None}
        if all(row.stacks for row in get_methods("kv", self.recipe.stages["kv"].method)):
            from streamprune.kv.method import EveryEntry

            EveryEntry(**extra)  # refuses a budget, which stores have no use for
            extra = {}
        return read_kv(self.recipe, lambda stage: self._build(stage, **extra))

    @property
    def _only_kv(self) -> bool:
        return "kv" in self.recipe.stages and not {"pre_llm", "in_llm"} & self.recipe.stages.keys()

    def needs(self) -> tuple[str, ...]:
        """Signals of the video that the method reads; a method of the user's own need not say any."""
        return tuple(name for name in self._all_needs if name not in QUESTION_SIGNALS)

    def question_needs(self) -> tuple[str, ...]:
        """Signals of each question that the method reads; when there are any, it decides per question."""
        return tuple(name for name in self._all_needs if name in QUESTION_SIGNALS)

    @cached_property
    def _all_needs(self) -> tuple[str, ...]:
        return tuple(getattr(self.method(), "needs", ()))


def read_encoder(recipe: Recipe) -> TowerMethod | None:
    """The method that ``recipe`` names for the inside of the vision tower; None when it names none."""
    from streamprune.encoder.base import TowerMethod

    built: TowerMethod | None = recipe.build("encoder")
    if built is not None:
        _check_base(recipe, "encoder", built, TowerMethod)
    return built


def read_in_llm(recipe: Recipe, build: Callable[[Stage], Any] | None = None) -> InLLMMethod | None:
    """The method that ``recipe`` names for the inside of the language model; None when it names none.

    Args:
        build: makes it, with options that are not in the recipe.
    """
    if "in_llm" not in recipe.stages:
        return None
    from streamprune.in_llm.base import InLLMMethod

    built: InLLMMethod = (build or recipe.build)("in_llm")
    _check_base(recipe, "in_llm", built, InLLMMethod)
    return built


def read_kv(recipe: Recipe, build: Callable[[Stage], Any] | None = None) -> CacheMethod | None:
    """What ``recipe`` names for the cache, made by ``build``; None when it names nothing."""
    if "kv" not in recipe.stages:
        return None
    from streamprune.kv.base import Policy
    from streamprune.kv.method import CacheMethod
    from streamprune.kv.store import Store

    built = (build or recipe.build)("kv")
    parts = built if isinstance(built, list) else [built]
    for part in parts:
        if not isinstance(part, Store):
            _check_base(recipe, "kv", part, Policy)
    return CacheMethod.of(*parts)


def _check_base(recipe: Recipe, stage: Stage, built: object, base: type) -> None:
    """Raise InvalidTypeError unless what was built for ``stage`` is a ``base``."""
    if not isinstance(built, base):
        raise InvalidTypeError(
            f"the {stage} method {recipe.stages[stage].method!r} must be a subclass of "
            f"{base.__module__}.{base.__name__}, got {type(built).__name__}"
        )


def check_together(method: CacheMethod) -> None:
    """Refuse what has to know about tokens where a method drops some of them on the way up."""
    policy = method.policy
    if policy.rereads:
        raise RecipeError(
            f"{type(policy).__name__} has the model read the prompt again, which cannot be done above the "
            "layers where an in_llm method drops tokens: leave out one of the two stages"
        )
    if "segments" in policy.needs or policy.protect_text:
        why = " (protect_text)" if policy.protect_text else ""
        raise RecipeError(
            f"{type(policy).__name__} reads which tokens are text and which frames others show{why}; that is "
            "not known above the layers where an in_llm method drops tokens: leave out one of the two stages"
        )
    for store in method.stores:
        if store.unrotated and store.acts("keys"):
            raise RecipeError(
                f"{type(store).__name__} stores keys before rotation and has to know their positions, which "
                "is not so above the layers where an in_llm method drops tokens: leave out one of the two "
                "stages, or give unrotated=False"
            )


def read_questions(question: object) -> tuple[str, ...]:
    """One question, or each of several; InvalidTypeError for anything else."""
    if isinstance(question, str):
        return (question,)
    if not isinstance(question, Sequence):
        raise InvalidTypeError(f"question must be text or a list of texts, got {type(question).__name__}")
    if not question:
        raise InvalidValueError("question must not be an empty list; ask at least one")
    return tuple(check_question(one) for one in question)


def read_recipe(
    recipe: str | Path | Recipe | None, keep_ratio: float | None = None, keep_tokens: int | None = None
) -> Recipe:
    """Resolve ``recipe`` with its budget and check that ``ask`` can carry out all of it."""
    resolved = Recipe.resolve(recipe).with_budget(keep_ratio, keep_tokens)
    if recipe is None and not resolved.budget.keeps_all:
        raise InvalidValueError(
            "keep_ratio and keep_tokens need a method that chooses what stays: give recipe=, e.g. 'fastvid'"
        )
    if "memory" in resolved.stages:
        memory = resolved.stages["memory"].method
        raise RecipeError(
            f"{memory!r} is a memory of streams and says nothing about one video: open a stream with "
            f"open_stream(memory={memory!r}), or streamprune stream --memory {memory}"
        )
    return resolved
