"""A recipe: one choice per stage, with its options, in Python, by name, or as TOML.

    name = "mine"
    keep_ratio = 0.1

    [frames]
    method = "uniform"
    num_frames = 32

    [encoder]
    method = "tome"
    removed = 20

    [pre_llm]
    method = "fastvid"
    num_segments = 8

    [positions]
    rule = "clipped"
    max_gap = 8

Every method's name is a recipe too. A method published with parts before and inside the language model, or
with its cache, brings all of them: ``holitom`` is pre_llm and in_llm. Of ``lvlm_csp``, whose representatives
before the model would leave nothing to bring back inside, the name alone means the first. A stage before the
name takes that part alone (``pre_llm:holitom``), and names joined by ``+`` make one recipe:
``fastvid+fastv+snapkv``. Stores of the cache join the policy of their stage: ``snapkv+mustafar+kivi`` is one
[kv] method with the options of all three.

The budget at the top counts visual tokens: those that reach the language model, or, in a recipe without
[pre_llm], those that its [in_llm] method leaves. Beside [pre_llm] an [in_llm] method has a keep_ratio or
keep_tokens among its own options, and so has a [kv] method, in cache entries; where nothing else drops tokens
it takes the one at the top.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from streamprune.budget import Budget
from streamprune.errors import InvalidTypeError, RecipeError, StreampruneError, UnknownNameError
from streamprune.positions import Positions
from streamprune.registry import (
    STAGES,
    Stage,
    build_method,
    build_methods,
    check_stage,
    get_method,
    get_methods,
    list_methods,
)

# stages whose methods have a budget of their own
_OWN_BUDGET = ("in_llm", "kv")

# a method's parts in these stages work together; a method of another stage is a form of its own
_JOINED = frozenset[Stage](("pre_llm", "in_llm", "kv"))

# methods whose parts stand for each other: alone, the name means the first
_EITHER = ("lvlm_csp",)

# a part that has to know which tokens are visual, which is not known above its method's own cuts: it goes by
# its stage and name
_APART: tuple[tuple[Stage, str], ...] = (("kv", "metok"),)

_TOP_LEVEL = ("name", "keep_ratio", "keep_tokens", *STAGES, "positions")


@dataclass(frozen=True)
class Choice:
    """One stage's method and its options."""

    method: str
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __reduce__(self) -> tuple[type[Choice], tuple[Any, ...]]:
        return Choice, (self.method, dict(self.options))  # a mappingproxy cannot be pickled or copied


@dataclass(frozen=True)
class Recipe:
    """What to do at every stage; a stage that is not named does nothing.

    Args:
        name: shown in tables and reports.
        stages: stage name -> Choice, or the method's name alone.
        budget: how many visual tokens reach the language model.
        positions: where in the prompt they stand, for calls that do not say themselves.
    """

    name: str = "recipe"
    stages: Mapping[Stage, Choice] = field(default_factory=lambda: MappingProxyType({}))
    budget: Budget = field(default_factory=Budget)
    positions: Positions = field(default_factory=Positions)

    def __post_init__(self) -> None:
        chosen: dict[Stage, Choice] = {}
        for stage, choice in self.stages.items():
            check_stage(stage)
            given: object = choice
            if not isinstance(given, (Choice, str)):
                raise InvalidTypeError(
                    f"stages[{stage!r}] must be a Choice or a method's name, got {given!r}"
                )
            chosen[stage] = Choice(given) if isinstance(given, str) else given
        object.__setattr__(self, "stages", MappingProxyType(chosen))

    def __reduce__(self) -> tuple[type[Recipe], tuple[Any, ...]]:
        return Recipe, (self.name, dict(self.stages), self.budget, self.positions)

    @classmethod
    def resolve(cls, recipe: str | Path | Recipe | None) -> Recipe:
        """Turn a name, a path to a TOML file, a Recipe, or None (keep everything) into a Recipe.

        A string is a path when it ends in ``.toml``. Raises UnknownNameError or RecipeError.
        """
        if recipe is None:
            return cls.named("none")
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Path) or (isinstance(recipe, str) and recipe.endswith(".toml")):
            return cls.from_file(recipe)
        if isinstance(recipe, str):
            return cls.named(recipe)
        raise InvalidTypeError(f"recipe must be a name, a path to a .toml file or a Recipe, got {recipe!r}")

    @classmethod
    def named(cls, name: str) -> Recipe:
        """The recipe called ``name``: ``METHOD``, ``STAGE:METHOD``, or several of them joined by ``+``.

        A method alone brings its stages from pre_llm on; if it has none, the one stage that it has.
        Raises UnknownNameError, and RecipeError when two of several have the same stage.
        """
        stages: dict[Stage, Choice] = {}
        for part in name.split("+"):
            for stage, method in _parts(part.strip()):
                if stage in stages and _stack(stage, stages[stage].method, method):
                    method = f"{stages[stage].method}+{method}"
                elif stage in stages:
                    raise RecipeError(
                        f"recipe {name!r}: {stages[stage].method!r} and {method!r} both have a stage "
                        f"{stage}; take one, or a part of a method by its stage, e.g. '{stage}:{method}'"
                    )
                stages[stage] = Choice(method)
        return cls(name, MappingProxyType({stage: stages[stage] for stage in STAGES if stage in stages}))

    @classmethod
    def from_file(cls, path: str | Path) -> Recipe:
        """Read a recipe from a TOML file; RecipeError names the file and what is wrong in it."""
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"cannot read the recipe {str(path)!r}: {error}") from error
        try:
            return cls.from_toml(text, name=Path(path).stem)
        except StreampruneError as error:
            raise RecipeError(f"recipe {str(path)!r}: {error}") from error

    @classmethod
    def from_toml(cls, text: str, *, name: str = "recipe") -> Recipe:
        """Parse TOML ``text``; ``name`` is used where the text gives none."""
        if not isinstance(text, str):
            raise InvalidTypeError(f"text must be TOML text, got {type(text).__name__}; see from_file")
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"not valid TOML: {error}") from error
        for key in table:
            if key not in _TOP_LEVEL:
                raise UnknownNameError.among("recipe key", key, _TOP_LEVEL)
        given_name = table.get("name", name)
        if not isinstance(given_name, str):
            raise RecipeError(f"name must be text, got {given_name!r}")
        stages: dict[Stage, Choice] = {
            stage: _read_choice(stage, table[stage]) for stage in STAGES if stage in table
        }
        budget = Budget(table.get("keep_ratio"), table.get("keep_tokens"))
        positions = table.get("positions", {})
        return cls(given_name, MappingProxyType(stages), budget, Positions.read(positions))

    def to_toml(self) -> str:
        """TOML text that :meth:`from_toml` reads back into an equal recipe."""
        import tomli_w

        table: dict[str, Any] = {"name": self.name}
        if self.budget.keep_ratio is not None:
            table["keep_ratio"] = self.budget.keep_ratio
        if self.budget.keep_tokens is not None:
            table["keep_tokens"] = self.budget.keep_tokens
        for stage in STAGES:
            if stage in self.stages:
                choice = self.stages[stage]
                table[stage] = {"method": choice.method, **choice.options}
        if self.positions != Positions():
            chosen = asdict(self.positions)
            table["positions"] = {name: value for name, value in chosen.items() if value is not None}
        return tomli_w.dumps(table)

    def with_budget(self, keep_ratio: float | None = None, keep_tokens: int | None = None) -> Recipe:
        """The same recipe with another budget; neither given leaves it as it is."""
        if keep_ratio is None and keep_tokens is None:
            return self
        return replace(self, budget=Budget(keep_ratio, keep_tokens))

    @property
    def takes_budget(self) -> bool:
        """Whether a share kept means anything to it: not to stages that drop nothing, nor to stores alone."""
        if "pre_llm" in self.stages or "in_llm" in self.stages:
            return True
        choice = self.stages.get("kv")
        return choice is not None and not all(row.stacks for row in get_methods("kv", choice.method))

    def build(self, stage: Stage, **extra: Any) -> Any:
        """Make the method of ``stage`` from its options (and ``extra``); None when the stage is not named.

        Several methods that stand beside each other come as a list.

        The pre-LLM method also gets the recipe's budget; without one the in-LLM method does. Beside a pre-LLM
        method that was told to keep everything, an in-LLM method without a budget of its own does so too.
        """
        choice = self.stages.get(stage)
        if choice is None:
            return None
        options = {**choice.options, **extra}
        if "budget" in options:
            raise RecipeError("budget is not an option; give keep_ratio or keep_tokens to the whole recipe")
        if stage == "pre_llm":
            options["budget"] = self.budget
        elif stage == "in_llm" and "pre_llm" not in self.stages and self.budget.is_given:
            if "keep_ratio" in options or "keep_tokens" in options:
                raise RecipeError(
                    "without a [pre_llm] stage the budget of the whole recipe is that of its [in_llm] "
                    "method, which has one already; leave out one of the two"
                )
            options["keep_ratio"], options["keep_tokens"] = self.budget.keep_ratio, self.budget.keep_tokens
        elif (
            stage == "in_llm"
            and self.budget.is_given
            and self.budget.keeps_all
            and not {"keep_ratio", "keep_tokens"} & options.keys()
        ):
            options["keep_ratio"] = 1.0
        if "+" in choice.method:
            return build_methods(stage, choice.method, options)
        return build_method(stage, choice.method, options)


def _read_choice(stage: Stage, table: object) -> Choice:
    if not isinstance(table, dict) or not isinstance(table.get("method"), str):
        raise RecipeError(f'[{stage}] must be a table with method = "NAME", got {table!r}')
    get_methods(stage, table["method"])
    for key in ("keep_ratio", "keep_tokens"):
        if key in table and stage not in _OWN_BUDGET:
            raise RecipeError(
                f"{key} belongs at the top of the recipe, above the first [stage], not in [{stage}]"
            )
    options = {key: value for key, value in table.items() if key != "method"}
    return Choice(table["method"], MappingProxyType(options))


def _stack(stage: Stage, first: str, second: str) -> bool:
    """Whether two methods of a stage can stand beside each other."""
    rows = [row for name in (first, second) for row in get_methods(stage, name)]
    return sum(not row.stacks for row in rows) < 2 and len({row.name for row in rows}) == len(rows)


def _parts(text: str) -> list[tuple[Stage, str]]:
    """(stage, method) of ``METHOD`` or ``STAGE:METHOD``."""
    head, colon, method = text.partition(":")
    if colon:
        check_stage(head)
        stage: Stage = head  # type: ignore[assignment]
        return [(get_method(stage, method).stage, method)]
    found: dict[str, list[Stage]] = {}
    for info in list_methods():
        found.setdefault(info.name, []).append(info.stage)
    usable = {name for name, stages in found.items() if len(stages) == 1 or _JOINED.intersection(stages)}
    if text not in usable:
        raise UnknownNameError.among("recipe", text, sorted(usable))
    joined = [stage for stage in found[text] if stage in _JOINED and (stage, text) not in _APART]
    stages = joined or found[text]
    return [(stage, text) for stage in (stages[:1] if text in _EITHER else stages)]
