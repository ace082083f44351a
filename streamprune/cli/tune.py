"""``streamprune tune``: which recipe, at which share, meets a target on one's own videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from streamprune.cli import ask_options
from streamprune.cli import tune_options as options
from streamprune.cli.app import app, progress_bars
from streamprune.cli.model_choice import ModelChoice
from streamprune.errors import InvalidValueError, TargetNotMetError

if TYPE_CHECKING:
    from streamprune.pipelines.jobs import JobLine
    from streamprune.pipelines.tuning import Point, Targets, Tuned

_WIDTH = 110


@app.command()
def tune(
    asked: options.Asked = None,
    questions: options.Questions = None,
    max_loss: options.MaxLoss = None,
    ttft_ms: options.TtftMs = None,
    memory_bytes: options.MemoryBytes = None,
    recipe: options.Recipe = None,
    keep_ratio: options.KeepRatio = None,
    num_frames: options.NumFrames = None,
    model: ask_options.Model = "embedded",
    device: ask_options.Device = None,
    dtype: ask_options.Dtype = None,
    max_new_tokens: options.MaxNewTokens = 32,
    budget: options.Budget = None,
    seed: options.Seed = 0,
    output: options.Output = None,
    nearest: options.Nearest = False,
    journal: options.Journal = None,
    json_file: options.JsonFile = None,
    plot: options.Plot = None,
) -> None:
    """Find the recipe and the share kept that meet a target on your own videos and questions.

    At least one target is needed. What has no target is made as small as possible: the loss, else the time
    to the first token, else the memory. Questions with a known answer count as right or wrong; any other by
    loyalty, the likelihood that is left of the full model's own words.

    Exit code 1 when nothing meets the targets; then no recipe is written.
    """
    from streamprune.budget import read_bytes
    from streamprune.checks import check_count, check_share
    from streamprune.pipelines.tuning_targets import Targets

    needed = None if memory_bytes is None else read_bytes("memory_bytes", memory_bytes)
    targets = Targets(max_loss=max_loss, ttft_ms=ttft_ms, memory_bytes=needed)
    if budget is not None:
        check_share("budget", budget)
    check_count("max_new_tokens", max_new_tokens)
    _check_paths(output, plot, journal, json_file)
    jobs = _jobs(asked or [], questions)
    kept = journal or (None if output is None else output.with_name(f".{output.name}.trials.jsonl"))
    compared = _candidates(recipe, keep_ratio, num_frames)
    _check_videos(jobs)

    from streamprune.pipelines.tuning import tune as search
    from streamprune.pipelines.tuning_candidates import default_candidates

    with progress_bars() as report:
        vlm = ModelChoice(model, device, dtype).load(report)
        named = compared if recipe else default_candidates(vlm.family, compared)
        tuned = search(
            vlm, jobs, named, targets=targets, budget=budget, max_new_tokens=max_new_tokens, journal=kept,
            seed=seed, progress=report,
        )  # fmt: skip
    _show(tuned, model, json_file, plot)
    _write(tuned, output, nearest)
    if journal is None and kept is not None:
        kept.unlink(missing_ok=True)  # it was for an interruption
    if tuned.chosen is None:
        raise TargetNotMetError(_unmet(tuned, targets, output, nearest))


def _check_paths(output: Path | None, plot: Path | None, *others: Path | None) -> None:
    """Refuse files that cannot be written, before anything is measured for them."""
    from streamprune.report.plot import new_figure
    from streamprune.report.writable import check_writable

    for path in (output, plot, *others):
        if path is not None:
            check_writable(path)
    if plot is not None:
        new_figure()  # not to be without matplotlib after an hour
    if output is not None and output.suffix != ".toml":
        raise InvalidValueError(
            f"--output must end in .toml, or no command would read it, got {str(output)!r}"
        )


def _jobs(asked: Sequence[str], questions: Path | None) -> list[JobLine]:
    """The questions of a file, or of the command line."""
    if questions is not None:
        if asked:
            raise InvalidValueError("--questions names the videos, too; leave out the others")
        from streamprune.pipelines.jobs import read_jobs

        return read_jobs(questions)
    if not asked:
        raise InvalidValueError(
            "no videos were given; name some, with questions behind them or none, or a file with --questions"
        )
    return _command_line(asked)


def _command_line(asked: Sequence[str]) -> list[JobLine]:
    """Every video with the questions behind it, or with questions that suit any video.

    What is no file and has spaces in it is a question.
    """
    from streamprune.pipelines.jobs import JobLine
    from streamprune.pipelines.tuning_prompts import PROMPTS

    groups: list[tuple[list[str], list[str]]] = []
    for text in asked:
        is_question = " " in text.strip() and not Path(text).exists()
        if is_question and not groups:
            raise InvalidValueError(f"the question {text!r} has no video before it; name videos first")
        if is_question:
            groups[-1][1].append(text)
        elif groups and not groups[-1][1]:
            groups[-1][0].append(text)
        else:
            groups.append(([text], []))
    pairs = [(video, one) for videos, told in groups for video in videos for one in told or PROMPTS]
    return [
        JobLine(id=str(number), video=Path(video), question=question)
        for number, (video, question) in enumerate(pairs, 1)
    ]


def _candidates(
    recipe: list[str] | None, keep_ratio: list[float] | None, num_frames: list[int] | None
) -> Any:
    from streamprune.pipelines.tuning_candidates import list_candidates

    return list_candidates(recipe, keep_ratio, num_frames)


def _check_videos(jobs: Sequence[JobLine]) -> None:
    """Open every video once: a misspelt path should not wait for a model to load."""
    from streamprune.readers import open_source

    for video in dict.fromkeys(job.video for job in jobs):
        open_source(video).close()


def record_of(tuned: Tuned, model: str) -> dict[str, Any]:
    """Everything that was found, ready for JSON."""
    from streamprune.report.record import circumstances

    return {
        "tune": model,
        **circumstances(["streamprune", *sys.argv[1:]]),
        "targets": asdict(tuned.targets),
        "met": tuned.chosen is not None,
        "questions": tuned.questions,
        "scored": tuned.scored,
        "accuracy": tuned.accuracy,
        "answers": tuned.answers,
        "exhaustive": tuned.exhaustive,
        "asked": tuned.asked,
        "seconds": round(tuned.seconds, 1),
        "full": _row(tuned.full, False),
        "rows": [_row(point, point.candidate == tuned.chosen) for point in tuned.points],
    }


def _row(point: Point, chosen: bool) -> dict[str, Any]:
    one = point.candidate
    return {
        "id": one.id, "recipe": one.name, "keep": one.keep, "num_frames": one.num_frames, "chosen": chosen,
        "questions": point.questions, "tokens_kept": round(point.tokens_kept, 1),
        "loss": round(point.loss.value, 2), "loss_low": round(point.loss.low, 2),
        "loss_high": round(point.loss.high, 2), "agreement": point.agreement,
        "ttft_ms": round(point.ttft_ms.value, 2), "ttft_low_ms": round(point.ttft_ms.low, 2),
        "ttft_high_ms": round(point.ttft_ms.high, 2), "memory_bytes": point.memory_bytes,
    }  # fmt: skip


def _show(tuned: Tuned, model: str, json_file: Path | None, plot: Path | None) -> None:
    """Print the table and a summary; write what was asked for."""
    from streamprune.report.pareto import pareto_table, plot_pareto
    from streamprune.report.record import write_record

    record = record_of(tuned, model)
    console = Console(width=max(_WIDTH, Console().width), highlight=False)
    console.print(pareto_table(record))
    share = tuned.answers / tuned.exhaustive
    asked = f"{tuned.answers} answers, {100 * share:.0f} % of what asking everybody everything takes"
    console.print(f"\nsearched: {tuned.targets.describe()}")
    console.print(f"took: {asked}; {tuned.seconds:.0f} s")
    if tuned.chosen is not None:
        console.print(f"found: {_named(tuned.point(tuned.chosen))}", style="bold")
    if json_file is not None:
        write_record(json_file, record)
    if plot is not None:
        plot_pareto(record, plot)
    for path in (json_file, plot):
        if path is not None:
            Console(stderr=True, highlight=False).print(f"written: {path}")


def _named(point: Point) -> str:
    """A point in words."""
    one = point.candidate
    keep = f" keep {one.keep}" if one.keep else ""
    frames = "" if one.num_frames is None else f" with {one.num_frames} frames"
    loss, ttft, memory = point.values
    return (
        f"{one.name}{keep}{frames}: {loss:.1f} points lost, first token {ttft:.0f} ms, {memory / 1e6:.2f} MB"
    )


def _write(tuned: Tuned, output: Path | None, nearest: bool) -> None:
    """Write the recipe, if there is one to write."""
    chosen = tuned.chosen or (tuned.nearest if nearest else None)
    if output is None or chosen is None:
        return
    from streamprune.errors import StorageError

    try:
        output.write_text(chosen.written.to_toml(), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {str(output)!r}: {error.strerror or error}") from error
    Console(stderr=True, highlight=False).print(f"written: {output}")


def _unmet(tuned: Tuned, targets: Targets, output: Path | None, nearest: bool) -> str:
    """What came nearest, and what each target could have been met by."""
    wanted = targets.describe().partition(";")[0]
    told = f"nothing meets the targets ({wanted}). Nearest: {_named(tuned.point(tuned.nearest))}."
    whole = [point for point in tuned.points if point.questions == tuned.questions]
    for place, (bound, told_as) in enumerate(
        zip(targets.bounds, ("least loss", "earliest first token", "least memory"), strict=True)
    ):
        if bound is not None:
            best = min(whole, key=lambda point: point.values[place])
            told += f" The {told_as} of those asked everything: {_named(best)}."
    if targets.ttft_ms is not None and targets.ttft_ms < tuned.points[0].ttft_ms.value:
        told += " Most of the time may be the tower's: fewer frames (--num-frames) shorten it."
    if output is not None and not nearest:
        told += f" {output} was not written; --nearest writes it all the same."
    return told
