"""``streamprune batch``: many questions about many videos, into one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streamprune.cli import ask_options, batch_options
from streamprune.cli.app import app, progress_bars

if TYPE_CHECKING:
    from streamprune.pipelines.batch import BatchReport

# failures that are printed; all of them are in the file
_TOLD_FAILURES = 10


@app.command()
def batch(
    jobs: batch_options.Jobs,
    output: batch_options.Output,
    model: ask_options.Model = "embedded",
    recipe: ask_options.RecipeName = None,
    keep_ratio: ask_options.KeepRatio = None,
    keep_tokens: ask_options.KeepTokens = None,
    frames: ask_options.Frames = None,
    num_frames: ask_options.NumFrames = None,
    fps: ask_options.Fps = None,
    max_new_tokens: ask_options.MaxNewTokens = 64,
    temperature: ask_options.Temperature = 0.0,
    top_p: ask_options.TopP = None,
    top_k: ask_options.TopK = None,
    repetition_penalty: ask_options.RepetitionPenalty = None,
    seed: ask_options.Seed = None,
    stop: ask_options.Stop = None,
    backend: ask_options.Backend = "pyav",
    device: ask_options.Device = None,
    dtype: ask_options.Dtype = None,
    cache: batch_options.Cache = False,
    cache_dir: ask_options.CacheDir = None,
    cache_bytes: ask_options.CacheBytes = "4GiB",
    videos_per_batch: batch_options.Batch = 1,
    workers: batch_options.Workers = None,
    threads: batch_options.Threads = None,
    engine: batch_options.Engine = "local",
    address: batch_options.Address = None,
    limit: batch_options.Limit = None,
    retry_failed: batch_options.RetryFailed = False,
    json_file: batch_options.JsonFile = None,
) -> None:
    """Answer every line of JOBS, encoding each video once.

    A killed run goes on where it was when it is started again with the same settings; lines without an
    answer have an error. In the end the lines of the output stand in the order of the jobs, the same bytes
    however often it was killed and whoever did the work. Exit code 1 when a question has no answer.
    """
    from streamprune.pipelines.batch import run_batch

    with progress_bars() as progress:
        done = run_batch(
            jobs, output, model=model, device=device, dtype=dtype, recipe=recipe, keep_ratio=keep_ratio,
            keep_tokens=keep_tokens, frames=frames, num_frames=num_frames, fps=fps,
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
            repetition_penalty=repetition_penalty, seed=seed, stop=stop, backend=backend,
            videos_per_batch=videos_per_batch, cache_folder=_cache_folder(cache, cache_dir),
            cache_bytes=cache_bytes, workers=workers, threads=threads, engine=engine, address=address,
            limit=limit, retry_failed=retry_failed, progress=progress,
        )  # fmt: skip
    _tell(done)
    if json_file is not None:
        _write(done, json_file)
    if done.failed:
        raise typer.Exit(1)


def _cache_folder(wanted: bool, folder: Path | None) -> Path | None:
    """Where encoded videos are kept; a folder that is named is wanted."""
    from streamprune.cache.cache_folder import default_cache_folder

    return default_cache_folder() if wanted and folder is None else folder


def _tell(done: BatchReport) -> None:
    """What came of it, on stdout; what failed, on stderr."""
    console = Console(highlight=False, soft_wrap=True)
    told = done.to_dict()
    answered = done.questions - len(done.failed)
    before = f"; {done.found} lines were there before" if done.found else ""
    console.print(Text(f"{done.output}: {answered} of {done.questions} questions are answered{before}"))
    if done.work.questions:
        console.print(_table(told))
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    for name, error in done.failed[:_TOLD_FAILURES]:
        errors.print(Text(f"{name}: {error}", style="yellow"))
    if len(done.failed) > _TOLD_FAILURES:
        errors.print(Text(f"... and {len(done.failed) - _TOLD_FAILURES} more without an answer"))
    if done.failed:
        errors.print(Text("once what is wrong is put right, --retry-failed asks these again"))


def _table(told: dict[str, Any]) -> Table:
    work = told["work"]
    rows = [
        ("workers", f"{work['workers']}"),
        ("videos encoded", f"{work['videos']:,}"),
        ("questions asked", f"{work['questions']:,}"),
        ("whole run", f"{told['wall_seconds']:.1f} s"),
        ("until every model was loaded", f"{work['load_seconds']:.1f} s"),
        ("videos per second from then on", _number(told["videos_per_second"])),
        ("questions per second from then on", _number(told["questions_per_second"])),
        ("a worker's time in the model", _share(told["model_share"])),
        ("a worker's time decoding", _share(told["decode_share"])),
    ]
    if work["deaths"]:
        rows.append(("workers that died", f"{work['deaths']}"))
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _write(done: BatchReport, path: Path) -> None:
    from streamprune.report.record import circumstances, write_record

    said = circumstances(["streamprune", *sys.argv[1:]])
    write_record(path, {"batch": str(done.output), **said, **done.to_dict()})
