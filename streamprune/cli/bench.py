"""``streamprune bench``: how long the parts take, always beside a baseline of the same run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from streamprune.cli.app import app, progress_bars

_STAGES = ("pre-llm",)


@app.command()
def bench(
    stage: Annotated[str, typer.Option(help="What to time: pre-llm.")] = "pre-llm",
    method: Annotated[
        list[str] | None, typer.Option(help="A method; again for more. Default: all of the stage.")
    ] = None,
    keep_ratio: Annotated[float, typer.Option(help="Share of the tokens KEPT, in (0, 1].")] = 0.1,
    scenes: Annotated[
        list[int] | None, typer.Option(help="Alike runs among the 32 frames; again for more. Default: 8, 32.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Timings of which the median counts.")] = 9,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")] = None,
) -> None:
    """Time the methods in units of one copy of their input, on one thread.

    The input is 32 x 14 x 14 x 3584 float32. Copy and method are timed in turn in the same process, so that
    the ratio survives a busy machine.
    """
    from streamprune.budget import Budget
    from streamprune.checks import check_count
    from streamprune.errors import UnknownNameError
    from streamprune.registry import get_method, list_methods

    if stage.replace("_", "-") not in _STAGES:
        raise UnknownNameError.among("stage to time", stage, _STAGES)
    names = method or [info.name for info in list_methods("pre_llm")]
    for name in names:
        get_method("pre_llm", name)
    Budget(keep_ratio)
    check_count("repeats", repeats)
    _run(names, keep_ratio, scenes or [8, 32], repeats, json_file)


def _run(
    names: list[str], keep_ratio: float, scenes: list[int], repeats: int, json_file: Path | None
) -> None:
    from streamprune.metrics.reducer_speed import reducer_speeds
    from streamprune.report.record import circumstances, write_record
    from streamprune.report.speed import speed_table

    record = {"bench": "pre-llm", **circumstances(["streamprune", *sys.argv[1:]]), "rows": []}
    with progress_bars() as report:
        for speed in reducer_speeds(
            names, keep_ratio=keep_ratio, scenes=scenes, repeats=repeats, progress=report
        ):
            record["rows"].append(speed.to_dict())
            if json_file is not None:
                write_record(json_file, record)  # after every row: what was measured survives an interruption
    Console().print(speed_table(record["rows"]))
    if json_file is not None:
        Console(stderr=True).print(f"written: {json_file}", highlight=False)
