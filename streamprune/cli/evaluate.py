"""``streamprune eval``: what recipes lose on a suite of questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from streamprune.catalog.info import Stage
from streamprune.cli.app import app, progress_bars
from streamprune.cli.evaluate_streams import STREAMS, evaluate_streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamprune.recipe import Recipe

_SUITES = ("embedded", "stream")
_QUESTIONS, _NUM_FRAMES = 2000, 16
_WIDTH = 110
_ORACLE = "oracle"
# stages whose methods have a budget
_COUNTED: tuple[Stage, ...] = ("pre_llm", "in_llm", "kv")
_KEEP_RATIOS = (0.5, 0.25, 0.1, 0.05)


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Option(help="Which questions: embedded or stream.")] = "embedded",
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="A recipe's name, a .toml file, or 'oracle'; again for more. Default: all of --stage."
        ),
    ] = None,
    stage: Annotated[
        str, typer.Option(help="Whose methods are measured where no recipe is named: pre_llm, in_llm or kv.")
    ] = "pre_llm",
    keep_ratio: Annotated[
        list[float] | None,
        typer.Option(help="Share KEPT, in (0, 1]; again for more. Default: 0.5, 0.25, 0.1, 0.05."),
    ] = None,
    questions: Annotated[
        int | None, typer.Option(help="How many questions. Default: 2000, ten per clip; of streams 200.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames of every clip, default 16, or stream, default 1800.")
    ] = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(
            help="stream: a memory, keep-all, evidence-only or blind; again for more. Default: all."
        ),
    ] = None,
    memory_bytes: Annotated[
        list[str] | None,
        typer.Option(help="stream: what it may hold; again for more. Default: 8MB, 32MB, 128MB."),
    ] = None,
    streams: Annotated[int, typer.Option(help="stream: so many share the questions.")] = STREAMS,
    model: Annotated[
        str, typer.Option(help="embedded, embedded-qwen, or a folder with one trained in the same world.")
    ] = "embedded",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy against kept tokens: .png or .svg.")
    ] = None,
) -> None:
    """Measure what recipes lose: accuracy with its interval, by question group, and evidence recall.

    Recipes with stages inside the tower, the language model or its cache are asked one question at a time;
    the share kept is that of cache entries where neither pre_llm nor in_llm drops tokens.

    The suite "embedded" asks a small trained model about made-up clips; it does not rank methods for real
    models. The suite "stream" shows it half an hour at one frame a second and asks about things that were
    there for a frame or two. It measures memories; rows that --json FILE holds already stay.
    """
    from streamprune.errors import UnknownNameError

    if suite not in _SUITES:
        raise UnknownNameError.among("suite", suite, _SUITES)
    if suite == "stream":
        _check_unused({"recipe": recipe, "keep_ratio": keep_ratio, "plot": plot}, suite)
        evaluate_streams(
            memory, memory_bytes, streams=streams, questions=questions, num_frames=num_frames, model=model,
            json_file=json_file,
        )  # fmt: skip
        return
    _check_unused({"memory": memory, "memory_bytes": memory_bytes}, suite)
    ratios = _ratios(keep_ratio)
    counts = _count("questions", questions, _QUESTIONS), _count("num_frames", num_frames, _NUM_FRAMES)
    record = _measure(_recipes(recipe, stage, model), ratios, *counts, model, json_file)
    _show(record, json_file, plot)


def _ratios(given: list[float] | None) -> list[float]:
    """The shares to measure at, checked."""
    from streamprune.budget import Budget

    ratios = given or list(_KEEP_RATIOS)
    for ratio in ratios:
        Budget(ratio)
    return ratios


def _count(name: str, given: int | None, usual: int) -> int:
    """``given``, or what is usual for clips, checked."""
    from streamprune.checks import check_count

    count = usual if given is None else given
    check_count(name, count)
    return count


def _check_unused(options: Mapping[str, object], suite: str) -> None:
    """Refuse options that the suite would pass over in silence."""
    from streamprune.errors import InvalidValueError

    for name, value in options.items():
        if value is not None:
            raise InvalidValueError(
                f"--{name.replace('_', '-')} is not for the suite {suite!r}; leave it out"
            )


def _recipes(names: list[str] | None, stage: str, model: str) -> dict[str, Recipe | None]:
    """Recipes by name; the oracle, which is no recipe, is None."""
    from streamprune.errors import UnknownNameError
    from streamprune.models.checkpoint_files import EMBEDDED
    from streamprune.recipe import Choice, Recipe
    from streamprune.registry import list_methods

    if names is not None:
        return {name: None if name == _ORACLE else Recipe.resolve(name) for name in names}
    if stage not in _COUNTED:
        raise UnknownNameError.among("stage to measure", stage, _COUNTED)
    of: Stage = stage
    found = [info.name for info in list_methods(of) if info.name != "none"]
    chosen: dict[str, Recipe | None] = {name: Recipe(name, {of: Choice(name)}) for name in found}
    return chosen | ({_ORACLE: None} if stage == "pre_llm" and model in EMBEDDED else {})


def _budgets(recipe: Recipe | None, ratios: list[float]) -> Sequence[float | None]:
    """What ``recipe`` is measured at; once where it has a budget of its own, or nothing that takes one."""
    if recipe is not None and (recipe.budget.is_given or not recipe.takes_budget):
        return (None,)
    return ratios


def _measure(
    recipes: dict[str, Recipe | None],
    ratios: list[float],
    questions: int,
    num_frames: int,
    model: str,
    json_file: Path | None,
) -> dict[str, Any]:
    from streamprune.embedded.evaluate.suite import Suite
    from streamprune.report.record import circumstances, write_record

    with progress_bars() as report:
        named = [one for one in recipes.values() if one is not None]
        suite = Suite(questions, num_frames, named, report, model)
        full = {"recipe": "none", "keep_ratio": 1.0, **suite.full()}
        record = {
            "eval": "embedded",
            **circumstances(["streamprune", *sys.argv[1:]]),
            "model": model,
            "frames": num_frames,
            "tokens": suite.tokens,
            "questions": full["count"],
            "full": full,
            "rows": [],
        }
        for name, one in recipes.items():
            for ratio in _budgets(one, ratios):
                figures = suite.measure(one, ratio)
                retained = round(figures["accuracy"] / full["accuracy"], 4)
                own = 1.0 if one is None or one.budget.keep_ratio is None else one.budget.keep_ratio
                asked = own if ratio is None else ratio
                record["rows"].append({"recipe": name, "keep_ratio": asked, "retained": retained, **figures})
                if json_file is not None:
                    write_record(json_file, record)  # what was measured survives an interruption
    return record


def _show(record: dict[str, Any], json_file: Path | None, plot: Path | None) -> None:
    from streamprune.report.retention import plot_retention, retention_table

    # narrower, the intervals would be cut off
    Console(width=max(_WIDTH, Console().width)).print(retention_table(record))
    if plot is not None:
        plot_retention(record, plot)
    for path in (json_file, plot):
        if path is not None:
            Console(stderr=True, highlight=False).print(f"written: {path}")
