"""One run of a batch: what is left to ask, who answers it, and the lines of the output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol, Self, TypedDict, get_args

from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.pipelines.batch_pool import Row, WorkerPool
from streamprune.pipelines.batch_report import BatchReport, Work
from streamprune.pipelines.batch_settings import BatchSettings, Group, groups_of
from streamprune.pipelines.jobs import JobLine, read_jobs
from streamprune.pipelines.journal import Journal

EngineName = Literal["local", "ray"]
Progress = Callable[[str, int, int], None]


class RunSettings(TypedDict, total=False):
    """The arguments of :class:`BatchRun` that have a default."""

    workers: int | None
    threads: int | None
    engine: EngineName
    address: str | None
    limit: int | None
    retry_failed: bool
    progress: Progress | None


class Engine(AbstractContextManager["Engine"], Protocol):
    """Whoever answers groups of questions."""

    work: Work

    def run(self, groups: Sequence[Group]) -> Iterator[Row]:
        """Rows of all questions of ``groups``, as they come."""


@dataclass(frozen=True)
class BatchRun:
    """How a batch is carried out; what comes out does not depend on it.

    Args:
        settings: what does.
        workers: processes with a loaded model each; default: one for each CUDA device, else one for two
            cores, and on Ray likewise those of the cluster.
        threads: of torch and of the decoder in each; default: 1 where there are several workers, else as
            torch and the reader like.
        engine: "local" for processes of this machine, "ray" for Ray Data.
        address: of a running Ray cluster, "HOST:PORT" or "auto"; default: one for this run on this machine.
        limit: only so many jobs, from the first.
        retry_failed: ask once more what an earlier run could not answer.
        progress: called with ("answer", questions done, questions).
    """

    settings: BatchSettings
    workers: int | None = None
    threads: int | None = None
    engine: EngineName = "local"
    address: str | None = None
    limit: int | None = None
    retry_failed: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "threads", "limit"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_flag("retry_failed", self.retry_failed)
        if self.engine not in get_args(EngineName):
            raise UnknownNameError.among("engine", self.engine, get_args(EngineName))
        if self.address is not None and self.engine != "ray":
            raise InvalidValueError(
                f"address {self.address!r} is that of a Ray cluster; give engine='ray', too"
            )

    def carry_out(self, jobs: str | Path | Sequence[JobLine], output: Path) -> BatchReport:
        """Ask what ``output`` does not answer yet; see :func:`~streamprune.pipelines.batch.run_batch`."""
        started = monotonic()
        lines = _Lines.read(jobs)
        wanted = lines.jobs[: self.limit]
        with Journal.open(output, run=self.settings.run) as journal:
            lines.check_found(journal)
            if self.retry_failed:
                journal.forget((job.id,) for job in wanted if "error" in journal.done.get((job.id,), {}))
            found = sum((job.id,) in journal.done for job in wanted)
            left = [job for job in wanted if (job.id,) not in journal.done]
            work = self._answer(left, lines, journal, found) if left else Work()
            journal.finish((job.id,) for job in lines.jobs)
            rows = [journal.done[job.id,] for job in wanted]
        return BatchReport(
            output=output,
            questions=len(wanted),
            found=found,
            failed=tuple((row["id"], row["error"]) for row in rows if "error" in row),
            wall_seconds=monotonic() - started,
            work=work,
        )

    def _answer(self, left: list[JobLine], lines: _Lines, journal: Journal, found: int) -> Work:
        """Have every job of ``left`` answered, and write what comes."""
        total = found + len(left)
        with self._engine() as engine:
            self._report(found, total)
            for number, row in enumerate(engine.run(groups_of(left, self.settings)), found + 1):
                journal.add(lines.told(row))
                self._report(number, total)
            return engine.work

    def _engine(self) -> Engine:
        if self.engine == "ray":
            from streamprune.pipelines.batch_ray import RayPool

            return RayPool(self.settings, self.workers, self.threads, self.address)
        workers = _default_workers(self.settings.device) if self.workers is None else self.workers
        threads = 1 if self.threads is None and workers > 1 else self.threads
        return WorkerPool(self.settings, workers, threads)

    def _report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress("answer", done, total)


@dataclass(frozen=True)
class _Lines:
    """The jobs, and what the output says about each of them.

    Attributes:
        jobs: in their order.
        about: by id, what is asked of which video.
        places: by id, the whole path of the video.
    """

    jobs: list[JobLine]
    about: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, str]

    @classmethod
    def read(cls, jobs: str | Path | Sequence[JobLine]) -> Self:
        """Videos are named as seen from the file of jobs, so that it does not matter from where that is."""
        if isinstance(jobs, str | Path):
            folder: Path | None = Path(jobs).parent
            jobs = read_jobs(jobs)
        else:
            folder, jobs = None, list(jobs)
            _check_lines(jobs)
        places = {job.id: str(job.video.absolute()) for job in jobs}
        return cls(jobs, {job.id: _about(job, folder) for job in jobs}, places)

    def told(self, row: Row) -> Row:
        """The line of the output for ``row``, whose error names the video as the jobs do."""
        about = self.about[row["id"]]
        if "error" in row:
            row = {**row, "error": row["error"].replace(self.places[row["id"]], about["video"])}
        return {**about, **row}

    def check_found(self, journal: Journal) -> None:
        """Raise InvalidValueError unless what was found is about these jobs."""
        for (name,), row in journal.done.items():
            about = self.about.get(name)
            if about is None:
                problem = f"an answer to {name!r}, which is none of the jobs"
            elif any(row.get(field) != value for field, value in about.items()):
                problem = f"an answer to {name!r} that is about another video, part or question than the job"
            else:
                continue
            raise InvalidValueError(f"{str(journal.path)!r} holds {problem}; remove it or name another file")


def _check_lines(jobs: Sequence[JobLine]) -> None:
    if not jobs:
        raise InvalidValueError("jobs must hold at least one question, got none")
    names = [job.id for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidValueError(f"jobs must have an id each, got {twice!r} twice")


def _about(job: JobLine, folder: Path | None) -> dict[str, Any]:
    video = job.video
    if folder is not None and video.is_relative_to(folder):
        video = video.relative_to(folder)
    about = {"id": job.id, "video": str(video), "question": job.question}
    part = {"start_seconds": job.start_seconds, "end_seconds": job.end_seconds}
    given = {name: value for name, value in part.items() if value is not None}
    return {**about, **({"options": list(job.options)} if job.options else {}), **given}


def _default_workers(device: str | None) -> int:
    if device is None or device.startswith("cuda"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count() if device in (None, "cuda") else 1
    return max(1, (os.cpu_count() or 1) // 2)
