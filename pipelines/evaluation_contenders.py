"""Who answers in an evaluation: the full model, recipes, and what they have to beat at as many tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from streamprune.benchmarks.item import Item
from streamprune.budget import Budget
from streamprune.errors import RecipeError
from streamprune.models.base import VideoFamily
from streamprune.models.preprocessing import Clip
from streamprune.models.sampling import Sampling
from streamprune.pipelines.journal import fingerprint
from streamprune.pipelines.request import AnswerRequest, read_recipe
from streamprune.recipe import Recipe
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

FULL = "full"
FEWER_FRAMES, LOWER_RESOLUTION = "fewer frames", "lower resolution"
REDUCERS = ("random", "stride", "pool")
BASELINES = (*REDUCERS, FEWER_FRAMES, LOWER_RESOLUTION)

# chooses tokens of a video knowing what it is asked about
Choose = Callable[[Item, VisualTokens], Reduction]


@dataclass(frozen=True)
class Contender:
    """One row of the table.

    Args:
        name: as the user wrote it, or of a baseline.
        recipe: with its budget.
        keep_ratio: as asked for; None where the recipe has a budget of its own, or none.
        keep_tokens: of a baseline, how many tokens it gets.
        choose: takes the place of the recipe's choice of tokens.
    """

    name: str
    recipe: Recipe
    keep_ratio: float | None = None
    keep_tokens: int | None = None
    choose: Choose | None = None

    @classmethod
    def full(cls) -> Contender:
        """The model with every token."""
        return cls(FULL, Recipe.named("none"))

    @cached_property
    def method(self) -> str:
        """Tells recipes of one name apart."""
        options = {stage: [one.method, dict(one.options)] for stage, one in self.recipe.stages.items()}
        return fingerprint({"stages": options, "positions": self.recipe.positions})[:8]

    @property
    def is_baseline(self) -> bool:
        """Whether it stands beside another contender, at as many tokens."""
        return self.keep_tokens is not None

    @property
    def asked_ratio(self) -> float:
        """The share it was told to keep; 1 where nothing was said."""
        own = self.recipe.budget.keep_ratio
        return self.keep_ratio if self.keep_ratio is not None else 1.0 if own is None else own

    def key(self, item_id: str) -> tuple[Any, ...]:
        """What makes its answer to a question the only one of its kind: the values of :data:`KEY`."""
        return item_id, self.name, self.method, self.keep_ratio, self.keep_tokens

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Signals of a video that it reads."""
        return self.request(0, 1).needs()

    def request(self, seed: int, max_new_tokens: int) -> AnswerRequest:
        """How it is asked; methods that draw do so by ``seed`` unless the recipe has one."""
        own = any("seed" in choice.options for choice in self.recipe.stages.values())
        sampling = Sampling(seed=None if own else seed)
        return AnswerRequest((), self.recipe, {}, max_new_tokens, None, sampling)

    def equal_tokens(self, kept: int, grid: VideoGrid) -> int | None:
        """What baselines get of a video of ``grid`` when this kept so many tokens; None where that is all.

        That is what its budget means: where it really kept another number, by a row or more, that number;
        where it drops tokens later than before the language model, the share that it was told to keep.
        """
        meant = self.recipe.budget.tokens(grid.tokens)
        tokens = kept if kept < grid.tokens and abs(kept - meant) >= grid.cols else meant
        return tokens if tokens < grid.tokens else None


@cache
def baseline(name: str, keep_tokens: int) -> Contender:
    """One of :data:`BASELINES` with so many tokens."""
    if name not in REDUCERS:
        return Contender(name, Recipe.named("none"), None, keep_tokens)
    return Contender(name, Recipe.named(name).with_budget(keep_tokens=keep_tokens), None, keep_tokens)


# entries of a line that make it the only one of its kind
KEY = ("id", "contender", "method", "keep_ratio", "keep_tokens")


def read_contenders(
    recipes: Sequence[str] | Mapping[str, Recipe], ratios: Sequence[float]
) -> list[Contender]:
    """Every one of ``recipes`` at every ratio; one with a budget of its own, or without any, once.

    Args:
        recipes: names and .toml files, or recipes by name.

    Raises UsageError for what is none, or cannot be asked.
    """
    for ratio in ratios:
        Budget(ratio)
    named = recipes if isinstance(recipes, Mapping) else {name: Recipe.resolve(name) for name in recipes}
    if FULL in named:
        raise RecipeError(f"a recipe must not be called {FULL!r}: that is the model with every token")
    found: list[Contender] = []
    for name, recipe in named.items():
        once = recipe.budget.is_given or not recipe.takes_budget
        shares: list[float | None] = [None] if once else list(dict.fromkeys(ratios))
        found += [Contender(name, read_recipe(recipe, share), share) for share in shares]
    return found


@dataclass(frozen=True)
class Smaller:
    """How as many tokens come from less of a video.

    Args:
        family: the model.
        clip: frames and pixels of what is shown whole.
    """

    family: VideoFamily
    clip: Clip

    def frames(self, tokens: int) -> tuple[int, VideoGrid]:
        """How many frames have about so many ``tokens``, in the size in which that many are shown."""
        grids = [(frames, self._grid(frames)) for frames in range(1, self.clip.frames + 1)]
        return min(grids, key=lambda one: (abs(one[1].tokens - tokens), -one[0]))

    def size(self, tokens: int) -> tuple[int, int] | None:
        """(rows, cols) in pixels in which all frames have about so many ``tokens``; None: there is one size.

        Of the sizes that come within a frame's tokens of it, the one nearest in shape to the pictures.
        """
        whole = self.family.frame_size(self.clip)
        grid = self.family.grid(self.clip.frames, whole)
        sides = whole[0] // grid.rows, whole[1] // grid.cols
        sizes = [
            (r * sides[0], c * sides[1]) for r in range(1, grid.rows + 1) for c in range(1, grid.cols + 1)
        ]
        if self.family.grid(self.clip.frames, sizes[0]).tokens_per_frame != 1:
            return None
        within = 0.5 * grid.tokens_per_frame
        shape = grid.rows / grid.cols

        def rank(size: tuple[int, int]) -> tuple[float, float, int]:
            made = self.family.grid(self.clip.frames, size)
            off = abs(made.tokens - tokens)
            bent = abs(math.log(made.rows / made.cols / shape))
            return max(0.0, off - within), round(bent, 6), off

        return min(sizes, key=rank)

    def _grid(self, frames: int) -> VideoGrid:
        clip = Clip(frames, self.clip.rows, self.clip.cols)
        return self.family.grid(frames, self.family.frame_size(clip))


def in_size(family: VideoFamily, size: tuple[int, int] | None) -> VideoFamily:
    """The same model, which shows pictures in ``size`` pixels (rows, cols); None leaves it to the family."""
    if size is None:
        return family
    shown = copy.copy(family)
    vars(shown)["frame_size"] = lambda clip: size
    return shown


def one_size(family: VideoFamily) -> str:
    """Why there is no row with pictures of lower resolution."""
    rows, cols = family.default_size()
    return f"{family.model_type} shows every picture in one size ({rows} x {cols} pixels)"


def order_of(
    items: Sequence[Item], contenders: Sequence[Contender], done: Mapping[tuple[Any, ...], Mapping[str, Any]]
) -> list[tuple[Any, ...]]:
    """Keys of all lines in the order of the questions, and of the contenders with what is equal to each."""
    keys: list[tuple[Any, ...]] = []
    for item in items:
        for contender in contenders:
            key = contender.key(item.id)
            keys.append(key)
            tokens = done[key].get("equal_tokens") if key in done else None
            if tokens is not None:
                keys += [baseline(name, tokens).key(item.id) for name in BASELINES]
    return keys
