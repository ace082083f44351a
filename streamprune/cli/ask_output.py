"""What ``streamprune ask`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from streamprune.pipelines.offline import Answer
    from streamprune.recipe import Recipe


def print_warnings(video: str, warnings: Sequence[str]) -> None:
    """On stderr, one line each."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for warning in warnings:
        console.print(Text(f"Warning: {video}: {warning}", style="yellow"))


def answers_object(
    video: str,
    model: str,
    questions: Sequence[str],
    recipes: Sequence[Recipe],
    answers: Sequence[Sequence[Answer]],
) -> dict[str, Any]:
    """Answers by question; with ``--compare`` each has one entry per recipe, the chosen one last."""
    return {
        "video": video,
        "model": model,
        "recipes": [
            {"name": r.name, "keep_ratio": r.budget.keep_ratio, "keep_tokens": r.budget.keep_tokens}
            for r in recipes
        ],
        "answers": [
            {"question": question, "answers": [column[i].to_dict() for column in answers]}
            for i, question in enumerate(questions)
        ],
    }


def print_answers(
    questions: Sequence[str], recipes: Sequence[Recipe], answers: Sequence[Sequence[Answer]]
) -> None:
    """Every answer beside its recipe, then what they cost."""
    from streamprune.report.tables import stats_table

    console = Console(highlight=False, soft_wrap=True)
    labels = [_label(recipe) for recipe in recipes]
    width = max(map(len, labels))
    for row, question in enumerate(questions):
        console.print(Text(question, style="bold"))
        for label, column in zip(labels, answers, strict=True):
            console.print(Text(f"  {label:<{width}}  "), Text(column[row].text, style="green"), sep="")
    console.print()
    # the stages before the answer are shared; the first question stands for the others
    console.print(
        stats_table([(lbl, col[0].stats.to_dict()) for lbl, col in zip(labels, answers, strict=True)])
    )


def _label(recipe: Recipe) -> str:
    budget = recipe.budget
    if budget.keep_tokens is not None:
        return f"{recipe.name} {budget.keep_tokens} tokens"
    return recipe.name if budget.keep_ratio is None else f"{recipe.name} {budget.keep_ratio:g}"
