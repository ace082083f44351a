"""``streamprune eval``: what recipes lose on a suite of questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from streamprune.cli.app import app, progress_bars

if TYPE_CHECKING:
    from streamprune.recipe import Recipe

_SUITES = ("embedded",)
_ORACLE = "oracle"
_KEEP_RATIOS = (0.5, 0.25, 0.1, 0.05)


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Option(help="Which questions: embedded.")] = "embedded",
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="A method, a .toml file, or 'oracle'; again for more. Default: every method."),
    ] = None,
    keep_ratio: Annotated[
        list[float] | None,
        typer.Option(help="Share KEPT, in (0, 1]; again for more. Default: 0.5, 0.25, 0.1, 0.05."),
    ] = None,
    questions: Annotated[int, typer.Option(help="How many questions, at least; ten per clip.")] = 2000,
    num_frames: Annotated[int, typer.Option(help="Frames of every clip.")] = 16,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against kept tokens: .png or .svg.")
    ] = None,
) -> None:
    """Measure what recipes lose: accuracy with its interval, by question group, and evidence recall.

    The suite "embedded" asks the small trained model that ships with the package about made-up clips. It
    shows what a selection loses there and does not rank methods for real models.
    """
    from streamprune.budget import Budget
    from streamprune.checks import check_count
    from streamprune.errors import UnknownNameError

    if suite not in _SUITES:
        raise UnknownNameError.among("suite", suite, _SUITES)
    check_count("questions", questions)
    check_count("num_frames", num_frames)
    ratios = keep_ratio or list(_KEEP_RATIOS)
    for ratio in ratios:
        Budget(ratio)
    record = _measure(_recipes(recipe), ratios, questions, num_frames, json_file)
    _show(record, json_file, plot)


def _recipes(names: list[str] | None) -> dict[str, Recipe | None]:
    """Recipes by name; the oracle, which is no recipe, is None."""
    from streamprune.errors import InvalidValueError
    from streamprune.recipe import Recipe
    from streamprune.registry import list_methods

    if names is None:
        names = [info.name for info in list_methods("pre_llm") if info.name != "none"] + [_ORACLE]
    chosen = {name: None if name == _ORACLE else Recipe.resolve(name) for name in names}
    for name, one in chosen.items():
        others = [] if one is None else sorted(stage for stage in one.stages if stage != "pre_llm")
        if one is not None and ("pre_llm" not in one.stages or others):
            raise InvalidValueError(
                f"recipe {name!r} cannot be evaluated here: clips are encoded once for all recipes, so it "
                f"must name a pre_llm method and nothing else (it names {', '.join(one.stages)})"
            )
    return chosen


def _measure(
    recipes: dict[str, Recipe | None],
    ratios: list[float],
    questions: int,
    num_frames: int,
    json_file: Path | None,
) -> dict[str, Any]:
    from streamprune.embedded.evaluate.suite import Suite
    from streamprune.report.record import circumstances, write_record

    with progress_bars() as report:
        suite = Suite(questions, num_frames, [one for one in recipes.values() if one is not None], report)
        full = {"recipe": "none", "keep_ratio": 1.0, **suite.full()}
        record = {
            "eval": "embedded",
            **circumstances(["streamprune", *sys.argv[1:]]),
            "frames": num_frames,
            "tokens": suite.tokens,
            "questions": full["count"],
            "full": full,
            "rows": [],
        }
        for name, one in recipes.items():
            for ratio in ratios:
                figures = suite.measure(one, ratio)
                retained = round(figures["accuracy"] / full["accuracy"], 4)
                record["rows"].append({"recipe": name, "keep_ratio": ratio, "retained": retained, **figures})
                if json_file is not None:
                    write_record(json_file, record)  # what was measured survives an interruption
    return record


def _show(record: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from streamprune.report.retention import plot_retention, retention_table

    Console().print(retention_table(record))
    if plot is not None:
        plot_retention(record, plot)
    for path in (json_file, plot):
        if path is not None:
            Console(stderr=True, highlight=False).print(f"written: {path}")
