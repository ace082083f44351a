"""Many questions about many videos, each answered once, however often the run is cut off.

run_batch("jobs.jsonl", "answers.jsonl", recipe="fastvid", keep_ratio=0.1, workers=4)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from streamprune.models.sampling import Sampling
from streamprune.pipelines.batch_report import BatchReport
from streamprune.pipelines.batch_run import BatchRun, RunSettings
from streamprune.pipelines.batch_settings import BatchSettings
from streamprune.pipelines.jobs import JobLine
from streamprune.pipelines.request import read_recipe
from streamprune.recipe import Recipe

__all__ = ["BatchReport", "run_batch"]


def run_batch(
    jobs: str | Path | Sequence[JobLine],
    output: str | Path,
    *,
    model: str | Path = "embedded",
    device: str | None = None,
    dtype: str | None = None,
    recipe: str | Path | Recipe | None = None,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    frames: str | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    backend: str = "pyav",
    videos_per_batch: int = 1,
    cache_folder: str | Path | None = None,
    cache_bytes: int | str = "4GiB",
    **how: Unpack[RunSettings],
) -> BatchReport:
    """Answer every line of ``jobs`` with a line of ``output``, going on where an earlier run was cut off.

    A line of ``output`` has the id, video and question of its job, and the text of the answer with figures,
    or an ``error``; in the end they stand in the order of the jobs. A second run with the same settings asks
    what is not there yet. Two runs of the same jobs leave the same bytes, whatever the workers.

    Args:
        jobs: a file for :func:`read_jobs`, or its lines.
        output: JSON lines; held against every other writer while this runs.
        videos_per_batch: questions that go through the language model at once, on devices that gain by it.
        cache_folder: where encoded videos are kept for other runs; None keeps none.
        **how: workers, threads, engine, address, limit, retry_failed and progress, see :class:`BatchRun`.
        others: as in ``load`` and ``ask``.

    Raises UsageError, of which InvalidValueError is also for an output of other settings or jobs,
    StorageError for one that cannot be written, and whatever would be wrong with every answer; those that
    were given stay.
    """
    settings = BatchSettings(
        model=str(model),
        device=device,
        dtype=dtype,
        recipe=read_recipe(recipe, keep_ratio, keep_tokens),
        frames=frames,
        num_frames=num_frames,
        fps=fps,
        max_new_tokens=max_new_tokens,
        sampling=Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop),
        backend=backend,
        videos_per_batch=videos_per_batch,
        cache_folder=None if cache_folder is None else str(Path(cache_folder).absolute()),
        cache_bytes=cache_bytes,
    )
    return BatchRun(settings, **how).carry_out(jobs, Path(output))
