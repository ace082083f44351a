"""Recipes beside the stock model, from file to answer: ratios of pairs of answers given in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from streamprune.metrics.paired import Effort, paired_runs
from streamprune.pipelines.end_to_end import Subject, answer_runner
from streamprune.pipelines.end_to_end_deep import extrapolated
from streamprune.pipelines.end_to_end_recipes import Candidate
from streamprune.pipelines.end_to_end_rows import (
    TIMES,
    Pair,
    amounts,
    milliseconds,
    rates,
    ratios,
    times_ratio,
)
from streamprune.recipe import Recipe


def end_to_end_speeds(
    subject: Subject,
    candidates: Sequence[Candidate],
    effort: Effort,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[list[dict[str, Any]]]:
    """Measure every candidate beside the stock model; yields all rows so far after every round.

    Raises what ``ask`` raises for a recipe that cannot be carried out, before anything is measured.
    """
    stock = answer_runner(subject, Recipe.named("none"))
    runners = {one.key: answer_runner(subject, one.recipe) for one in candidates}
    for pairs in paired_runs(stock, runners, effort, _widest):
        if progress is not None:
            progress("bench", len(pairs.done), len(candidates))
        yield [_row(subject, one, pairs.of[one.key]) for one in candidates]


def _widest(pairs: Sequence[Pair]) -> float:
    """Of the intervals of everything that can be resolved."""
    found = [times_ratio(pairs, laps) for laps in TIMES.values()]
    return max((one.width for one in found if one is not None), default=0.0)


def _row(subject: Subject, candidate: Candidate, pairs: Sequence[Pair]) -> dict[str, Any]:
    """For JSON."""
    own, recipe = pairs[0][1], candidate.recipe
    needs = subject.request(recipe).needs()
    return {
        "model": subject.name,
        "batch": len(subject.videos),
        "recipe": recipe.name,
        "keep_ratio": candidate.keep_ratio,
        "frames": own.stats[0].frames,
        "tokens_in": sum(one.tokens_in for one in own.stats),
        "tokens_kept": sum(one.tokens_kept for one in own.stats),
        "new_tokens": own.stats[0].new_tokens,
        "together": own.together,
        "pairs": len(pairs),
        "ratios": ratios(pairs),
        "milliseconds": milliseconds(pairs),
        "per_second": rates(pairs),
        "amounts": amounts(pairs),
        "extrapolated": extrapolated(subject, recipe, needs, pairs),
    }
