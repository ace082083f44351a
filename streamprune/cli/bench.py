"""``streamprune bench``: how long the parts take, always beside a baseline of the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from streamprune.catalog.info import Stage
from streamprune.cli import bench_options as options
from streamprune.cli.app import app, progress_bars
from streamprune.cli.bench_end_to_end import EndToEnd, show_end_to_end
from streamprune.cli.bench_tower import Report, tower_cache

if TYPE_CHECKING:
    from streamprune.cli.bench_against import Against
    from streamprune.metrics.paired import Effort

# what to time -> the stage whose methods those are
_STAGES: dict[str, Stage] = {"pre-llm": "pre_llm", "in-llm": "in_llm", "kv": "kv", "llm": "pre_llm"}
_KEEP_RATIOS = {"pre-llm": (0.1,)}
_LLM_KEEP_RATIOS = (1.0, 0.5, 0.25, 0.1)
# times settings of one method
_TOWER = "tower-cache"
# times whole answers
_END_TO_END = "end-to-end"


@app.command()
def bench(
    stage: options.Stage = None,
    method: options.Method = None,
    recipe: options.Recipe = None,
    keep_ratio: options.KeepRatio = None,
    model: options.Model = None,
    family: options.Family = None,
    shape: options.Shape = None,
    layers: options.Layers = None,
    batch: options.Batch = None,
    video: options.Video = None,
    num_frames: options.NumFrames = None,
    max_new_tokens: options.MaxNewTokens = None,
    scenes: options.Scenes = None,
    tokens: options.Tokens = 2048,
    size: options.Size = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    frames: options.Frames = 32,
    questions: options.Questions = 200,
    repeats: options.Repeats = 9,
    max_seconds: options.MaxSeconds = 300.0,
    precision: options.Precision = 0.02,
    json_file: options.JsonFile = None,
    plot: options.Plot = None,
    against: options.Against = None,
    fail_above: options.FailAbove = None,
) -> None:
    """Time methods, always beside a baseline of the same run.

    end-to-end: from a video file to the answer, stage by stage and as a whole, every figure as a ratio to the
    stock model with a 95 % interval. pre-llm: the reduction alone, in units of one copy of its input
    (32 x 14 x 14 x 3584 float32), on one thread. in-llm, kv, llm: prefill, decode step, cache bytes and peak
    memory of a language model with random weights, as ratios to the same model without a recipe. tower-cache:
    a vision tower with random weights in which the method stc recomputes what changed, as ratio to the plain
    tower on one thread, before a static and before a busy camera; and what the embedded model's answers about
    streams lose by it. Whatever is compared is timed in turn in the same process, so that the ratio survives
    a busy machine.
    """
    from streamprune.cli.bench_against import Against

    of_file = {
        "model": model, "family": family, "shape": shape, "layers": layers, "batch": batch, "video": video,
        "num_frames": num_frames, "max_new_tokens": max_new_tokens, "plot": plot,
    }  # fmt: skip
    stage = _stage(stage, of_file, {"method": method, "scenes": scenes, "size": size}, recipe)
    before = Against.read(against, fail_above, stage)
    _check_outputs(json_file, plot)
    if stage == _END_TO_END:
        wanted = EndToEnd.read(
            model, family, shape, recipe, keep_ratio, batch, layers=layers, video=video,
            num_frames=num_frames, max_new_tokens=max_new_tokens, device=device, dtype=dtype,
            effort=_effort(repeats, max_seconds, precision),
        )  # fmt: skip
        _finish(_measured(wanted, json_file), json_file, before, lambda done: show_end_to_end(done, plot))
        return
    if stage == _TOWER:
        run, about = tower_cache(method, size=size or "so400m", frames=frames, questions=questions)
    else:
        names = [*(method or ()), *(recipe or ())] or None
        run, about = _parts(stage, names, keep_ratio, scenes, tokens, size, device, dtype, repeats)
    _finish(_timed(stage, run, about, json_file), json_file, before, _show)


def _stage(
    stage: str | None, of_file: Mapping[str, Any], of_parts: Mapping[str, Any], recipe: list[str] | None
) -> str:
    """The stage that was asked for, or that suits the options; refuses options of another one."""
    from streamprune.errors import UnknownNameError

    if stage is None:
        named = recipe is not None or any(value is not None for value in of_file.values())
        stage = _END_TO_END if named else "pre-llm"
    stage = stage.replace("_", "-")
    if stage not in (_END_TO_END, _TOWER, *_STAGES):
        raise UnknownNameError.among("stage to time", stage, [_END_TO_END, *_STAGES, _TOWER])
    if stage == _END_TO_END:
        _check_unused(stage, of_parts)
    else:
        _check_unused(stage, {**of_file, "recipe": None if stage == "llm" else recipe})
    return stage


def _check_unused(stage: str, values: Mapping[str, Any]) -> None:
    """Refuse options that the stage has no use for."""
    from streamprune.errors import InvalidValueError

    for name, value in values.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise InvalidValueError(f"{option} means nothing to --stage {stage}; leave out one of the two")


def _check_outputs(json_file: Path | None, plot: Path | None) -> None:
    """Raise before anything is measured for what could not be written afterwards."""
    from streamprune.report.bench_plot import check_plot
    from streamprune.report.writable import check_writable

    if plot is not None:
        check_plot(plot)
    for path in (json_file, plot):
        if path is not None:
            check_writable(path)


def _effort(repeats: int, max_seconds: float, precision: float) -> Effort:
    from streamprune.metrics.paired import Effort

    return Effort(repeats, max_seconds, precision)


def _parts(
    stage: str,
    names: list[str] | None,
    keep_ratio: list[float] | None,
    scenes: list[int] | None,
    tokens: int,
    size: str | None,
    device: str | None,
    dtype: str | None,
    repeats: int,
) -> tuple[Callable[[Report], Iterator[dict[str, Any]]], dict[str, Any]]:
    """What times methods of one stage, and what its record says besides."""
    from streamprune.budget import Budget
    from streamprune.checks import check_count

    ratios = keep_ratio or list(_KEEP_RATIOS.get(stage, _LLM_KEEP_RATIOS))
    for ratio in ratios:
        Budget(ratio)
    check_count("repeats", repeats)
    check_count("tokens", tokens)
    if stage == "pre-llm":
        return partial(_reducers, _methods("pre_llm", names), ratios, scenes or [8, 32], repeats), {}
    return _in_llm(stage, names, ratios, tokens, size or "mid", device, dtype, repeats)


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


def _timed(
    stage: str,
    rows: Callable[[Report], Iterator[dict[str, Any]]],
    about: dict[str, Any],
    json_file: Path | None,
) -> dict[str, Any]:
    """The record of one stage, written after every row: what was measured survives an interruption."""
    from streamprune.report.record import circumstances, write_record

    record = {"bench": stage, **circumstances(["streamprune", *sys.argv[1:]]), **about, "rows": []}
    with progress_bars() as report:
        for row in rows(report):
            record["rows"].append(row)
            if json_file is not None:
                write_record(json_file, record)
    return record


def _measured(wanted: EndToEnd, json_file: Path | None) -> dict[str, Any]:
    """The record from file to answer, written after every round."""
    from streamprune.report.record import circumstances, write_record

    record: dict[str, Any] = {}
    where = circumstances(["streamprune", *sys.argv[1:]])
    for so_far in wanted.measure():
        record = {"bench": _END_TO_END, **where, **so_far}
        if json_file is not None:
            write_record(json_file, record)
    return record


def _finish(
    record: dict[str, Any],
    json_file: Path | None,
    before: Against | None,
    show: Callable[[dict[str, Any]], None],
) -> None:
    """Show what was measured, and what changed."""
    show(record)
    if json_file is not None:
        Console(stderr=True).print(f"written: {json_file}", highlight=False)
    if before is not None:
        before.show(record)


def _show(record: dict[str, Any]) -> None:
    from streamprune.report.speed import llm_table, speed_table, tower_table

    table = {"pre-llm": speed_table, _TOWER: tower_table}.get(record["bench"], llm_table)
    Console().print(table(record["rows"]))
