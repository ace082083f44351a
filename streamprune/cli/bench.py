"""``streamprune bench``: how long the parts take, always beside a baseline of the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from streamprune.catalog.info import Stage
from streamprune.cli import bench_options as options
from streamprune.cli.app import app, progress_bars
from streamprune.cli.bench_tower import Report, tower_cache

# what to time -> the stage whose methods those are
_STAGES: dict[str, Stage] = {"pre-llm": "pre_llm", "in-llm": "in_llm", "kv": "kv", "llm": "pre_llm"}
_KEEP_RATIOS = {"pre-llm": (0.1,)}
_LLM_KEEP_RATIOS = (1.0, 0.5, 0.25, 0.1)
# times settings of one method
_TOWER = "tower-cache"


@app.command()
def bench(
    stage: options.Stage = "pre-llm",
    method: options.Method = None,
    keep_ratio: options.KeepRatio = None,
    scenes: options.Scenes = None,
    tokens: options.Tokens = 2048,
    size: options.Size = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    frames: options.Frames = 32,
    questions: options.Questions = 200,
    repeats: options.Repeats = 9,
    json_file: options.JsonFile = None,
) -> None:
    """Time methods, always beside a baseline of the same run.

    pre-llm: the reduction alone, in units of one copy of its input (32 x 14 x 14 x 3584 float32), on one
    thread. in-llm, kv, llm: prefill, decode step, cache bytes and peak memory of a language model with random
    weights, as ratios to the same model without a recipe. tower-cache: a vision tower with random weights in
    which the method stc recomputes what changed, as ratio to the plain tower on one thread, before a static
    and before a busy camera; and what the embedded model's answers about streams lose by it. Whatever is
    compared is timed in turn in the same process, so that the ratio survives a busy machine.
    """
    from streamprune.budget import Budget
    from streamprune.checks import check_count
    from streamprune.errors import UnknownNameError

    record: dict[str, Any]
    run: Callable[[Report], Iterator[dict[str, Any]]]
    stage = stage.replace("_", "-")
    if stage == _TOWER:
        run, record = tower_cache(method, size=size or "so400m", frames=frames, questions=questions)
        _run(stage, run, record, json_file)
        return
    if stage not in _STAGES:
        raise UnknownNameError.among("stage to time", stage, [*_STAGES, _TOWER])
    ratios = keep_ratio or list(_KEEP_RATIOS.get(stage, _LLM_KEEP_RATIOS))
    for ratio in ratios:
        Budget(ratio)
    check_count("repeats", repeats)
    check_count("tokens", tokens)
    if stage == "pre-llm":
        names = _methods("pre_llm", method)
        run = partial(_reducers, names, ratios, scenes or [8, 32], repeats)
        record = {}
    else:
        run, record = _in_llm(stage, method, ratios, tokens, size or "mid", device, dtype, repeats)
    _run(stage, run, record, json_file)


def _methods(stage: Stage, names: list[str] | None) -> list[str]:
    from streamprune.registry import get_method, list_methods

    return [get_method(stage, name).name for name in names or [info.name for info in list_methods(stage)]]


def _reducers(
    names: list[str], ratios: list[float], scenes: list[int], repeats: int, report: Report
) -> Iterator[dict[str, Any]]:
    from streamprune.metrics.reducer_speed import reducer_speeds

    for ratio in ratios:
        for speed in reducer_speeds(names, keep_ratio=ratio, scenes=scenes, repeats=repeats, progress=report):
            yield speed.to_dict()


def _in_llm(
    stage: str,
    names: list[str] | None,
    ratios: list[float],
    tokens: int,
    size: str,
    device: str | None,
    dtype: str | None,
    repeats: int,
) -> tuple[Callable[[Report], Iterator[dict[str, Any]]], dict[str, Any]]:
    """What times recipes inside a made-up model, and what its record says about that model."""
    from streamprune.models.made import made_family
    from streamprune.pipelines.llm_speed import llm_speeds
    from streamprune.recipe import Choice, Recipe

    of = _STAGES[stage]
    if stage == "llm":
        recipes = {name: Recipe.resolve(name) for name in names or _methods(of, None)}
    else:
        recipes = {name: Recipe(name, {of: Choice(name)}) for name in _methods(of, names)}
    family = made_family(size, device=device, dtype=dtype)

    def run(report: Report) -> Iterator[dict[str, Any]]:
        speeds = llm_speeds(
            family, recipes, keep_ratios=ratios, tokens=tokens, repeats=repeats, progress=report
        )
        return (speed.to_dict() for speed in speeds)

    number_format = str(family.model.dtype).removeprefix("torch.")
    return run, {"size": size, "model_device": str(family.device), "dtype": number_format}


def _run(
    stage: str,
    rows: Callable[[Report], Iterator[dict[str, Any]]],
    about: dict[str, Any],
    json_file: Path | None,
) -> None:
    from streamprune.report.record import circumstances, write_record
    from streamprune.report.speed import llm_table, speed_table, tower_table

    record = {"bench": stage, **circumstances(["streamprune", *sys.argv[1:]]), **about, "rows": []}
    with progress_bars() as report:
        for row in rows(report):
            record["rows"].append(row)
            if json_file is not None:
                write_record(json_file, record)  # after every row: what was measured survives an interruption
    table = {"pre-llm": speed_table, _TOWER: tower_table}.get(stage, llm_table)
    Console().print(table(record["rows"]))
    if json_file is not None:
        Console(stderr=True).print(f"written: {json_file}", highlight=False)
