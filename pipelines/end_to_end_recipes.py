"""Which recipes stand beside the stock model, at which shares. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from streamprune.recipe import Recipe


@dataclass(frozen=True)
class Candidate:
    """A recipe with its budget.

    Attributes:
        recipe: resolved; its name is said in the record.
        keep_ratio: what was asked for.
    """

    recipe: Recipe
    keep_ratio: float

    @property
    def key(self) -> str:
        """Tells candidates of one subject apart."""
        return f"{self.recipe.name} at {self.keep_ratio:g}"


def candidates_of(recipes: Mapping[str, Recipe], keep_ratios: Sequence[float]) -> list[Candidate]:
    """Every recipe at every share; those that drop nothing only once, at 1."""
    return [
        Candidate(replace(recipe, name=name).with_budget(ratio if recipe.takes_budget else None), ratio)
        for name, recipe in recipes.items()
        for ratio in (keep_ratios if recipe.takes_budget and name != "none" else (1.0,))
    ]
