"""Find the recipe and the share kept that meet a target on one's own videos and questions.

tuned = tune(vlm, read_jobs("jobs.jsonl"), targets=Targets(max_loss=2))
tuned.chosen.written.to_toml()
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from streamprune.checks import check_count, check_share
from streamprune.errors import InvalidValueError
from streamprune.models.fingerprint import fingerprint as model_fingerprint
from streamprune.pipelines.jobs import JobLine
from streamprune.pipelines.journal import Journal, fingerprint
from streamprune.pipelines.tuning_candidates import (
    Candidate,
    check_candidates,
    default_candidates,
    ladders,
    list_candidates,
)
from streamprune.pipelines.tuning_encoding import full_candidate
from streamprune.pipelines.tuning_figures import Estimate, FullTrial, Spread, Trial, middle, ttft_estimate
from streamprune.pipelines.tuning_prompts import PROMPTS, loyalty_jobs
from streamprune.pipelines.tuning_search import Outcome, Search, count_answers
from streamprune.pipelines.tuning_targets import Targets
from streamprune.pipelines.tuning_trials import KEY, Examiner

if TYPE_CHECKING:
    from streamprune.pipelines.offline import VideoLLM

__all__ = ["PROMPTS", "Candidate", "Point", "Targets", "Tuned", "list_candidates", "loyalty_jobs", "tune"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is known of one candidate.

    Attributes:
        candidate: which.
        questions: so many it has answered.
        loss: points below the full model, with their 95 % interval.
        ttft_ms: time from the file to the first token, likewise.
        memory_bytes: most that an answer needed.
        tokens_kept: on average.
        agreement: share of the full model's words it would say, too; None where every answer was scored.
    """

    candidate: Candidate
    questions: int
    loss: Estimate
    ttft_ms: Estimate
    memory_bytes: int
    tokens_kept: float
    agreement: float | None

    @property
    def values(self) -> tuple[float, float, float]:
        """As targets count them: points, milliseconds, bytes."""
        return self.loss.value, self.ttft_ms.value, float(self.memory_bytes)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What was found.

    Attributes:
        targets: what was looked for.
        chosen: the best candidate that answered every question and meets them; None when none does.
        nearest: the same, or the one that misses them by least.
        points: every candidate that was asked anything, those that answered most questions first.
        full: the full model.
        accuracy: its share of right answers, where any are known.
        questions, scored: how many were there to be asked, and of them with a known answer.
        answers: answers that the search took; ``exhaustive`` is what asking everybody everything takes.
        asked: answers given now, with a second timing of the full model; fewer where a journal had some.
        seconds: what it took.
    """

    targets: Targets
    chosen: Candidate | None
    nearest: Candidate
    points: tuple[Point, ...]
    full: Point
    accuracy: float | None
    questions: int
    scored: int
    answers: int
    exhaustive: int
    asked: int
    seconds: float

    def point(self, candidate: Candidate) -> Point:
        """What is known of ``candidate``."""
        return next(point for point in self.points if point.candidate == candidate)


def tune(
    vlm: VideoLLM,
    jobs: Sequence[JobLine],
    candidates: Sequence[Candidate] | None = None,
    *,
    targets: Targets,
    budget: float | None = None,
    max_new_tokens: int = 32,
    num_frames: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Tuned:
    """Find what meets ``targets`` without asking every candidate every question.

    A question with a known answer counts as it is judged by :mod:`streamprune.benchmarks.scoring` (with
    options the letter, else the answer's words in the reply); any other by loyalty, the likelihood of the
    full model's own words. Times are ratios to the full model, which answers each question just before,
    times its median; memory is the key-value cache, on a GPU the most that was allocated.

    Args:
        vlm: the model.
        jobs: questions about videos; :func:`loyalty_jobs` makes some where there are none.
        candidates: what is compared, see :func:`list_candidates`; default: a short list of what the model
            can run.
        budget: most answers, as a share of what asking everybody everything would take, in (0, 1]; default
            0.25, or what is needed at least with few candidates or questions.
        max_new_tokens: longest answer.
        num_frames: frames that the full model looks at; default: the most of any candidate, or what suits
            the model.
        journal: a file in which every answer is kept as soon as it is there: the next call with the same
            model and questions goes on where this one was stopped, and other targets use what is known.
        seed: of the order in which questions are asked.
        progress: called with ("tune", answers so far, most there will be).

    Raises UsageError, SourceError, SignalError, ContextLengthError, DeviceError, or StorageError for a
    journal that cannot be written.
    """
    started = time.perf_counter()
    if budget is not None:
        check_share("budget", budget)
    check_count("max_new_tokens", max_new_tokens)
    _check_jobs(jobs)
    compared = default_candidates(vlm.family) if candidates is None else check_candidates(candidates)
    vlm.family.check_signals(sorted({name for one in compared for name in one.needs()}))
    order = _mixed(jobs, seed)
    most_frames = max((one.num_frames for one in compared if one.num_frames), default=None)
    full = full_candidate(num_frames or most_frames)
    every = (len(compared) + 1) * len(order)
    most = count_answers(budget, len(compared), len(order))
    with _journal(journal, vlm, order, full, max_new_tokens) as written:
        examiner = Examiner(vlm, full, compared, order, max_new_tokens, written)
        outcome = Search(
            ladders(compared),
            len(order),
            targets,
            most,
            examiner,
            seed=seed,
            tell=None if progress is None else lambda done, total: progress("tune", done, total),
        ).run()
    seconds = time.perf_counter() - started
    return _told(outcome, targets, compared, full, order, every, examiner.asked, seconds)


def _check_jobs(jobs: Sequence[JobLine]) -> None:
    """Refuse no questions, and questions that cannot be told apart."""
    if not jobs:
        raise InvalidValueError("tune needs at least one question about a video")
    ids = [job.id for job in jobs]
    if len(set(ids)) < len(ids):
        raise InvalidValueError(f"jobs must have different ids, got {max(ids, key=ids.count)!r} twice")


def _mixed(jobs: Sequence[JobLine], seed: int) -> list[JobLine]:
    """Questions in random order, a video's second only after the first of every other."""
    shuffled = Random(seed).sample(list(jobs), len(jobs))
    seen: dict[Path, int] = {}
    turns = []
    for job in shuffled:
        seen[job.video] = seen.get(job.video, 0) + 1
        turns.append(seen[job.video])
    return [job for _, job in sorted(zip(turns, shuffled, strict=True), key=lambda pair: pair[0])]


def _journal(
    path: str | os.PathLike[str] | None,
    vlm: VideoLLM,
    jobs: Sequence[JobLine],
    full: Candidate,
    max_new_tokens: int,
) -> AbstractContextManager[Journal | None]:
    """The journal at ``path``; answers in it count for this model and these questions alone."""
    if path is None:
        return nullcontext()
    settings: dict[str, Any] = {
        "command": "tune",
        "model": model_fingerprint(vlm.family),
        "device": str(vlm.family.device),
        "questions": sorted(repr(job) for job in jobs),
        "videos": sorted({_state(job.video) for job in jobs}),
        "full": full.id,
        "max_new_tokens": max_new_tokens,
    }
    return Journal.open(Path(path), run=fingerprint(settings), key=KEY)


def _state(video: Path) -> str:
    """Changes when the file does."""
    try:
        found = video.stat()
    except OSError:
        return str(video)
    return f"{video} {found.st_size} {found.st_mtime_ns}"


def _told(
    outcome: Outcome,
    targets: Targets,
    candidates: Sequence[Candidate],
    full: Candidate,
    jobs: Sequence[JobLine],
    every: int,
    asked: int,
    seconds: float,
) -> Tuned:
    """The figures of everybody."""
    trials = outcome.standing.trials
    full_ms = outcome.standing.full_ms
    points = [_point(candidates[n], list(found.values()), full_ms) for n, found in enumerate(trials) if found]
    marks = [one.right for one in outcome.full.values() if one.right is not None]
    return Tuned(
        targets=targets,
        chosen=None if outcome.chosen is None else candidates[outcome.chosen],
        nearest=candidates[outcome.nearest],
        points=tuple(sorted(points, key=lambda point: (-point.questions, point.values))),
        full=_full_point(full, list(outcome.full.values())),
        accuracy=fmean(marks) if marks else None,
        questions=len(jobs),
        scored=sum(job.answer is not None for job in jobs),
        answers=outcome.answers,
        exhaustive=every,
        asked=asked,
        seconds=seconds,
    )


def _point(candidate: Candidate, trials: Sequence[Trial], full_ms: float) -> Point:
    agreed = [trial.agreement for trial in trials if trial.agreement is not None]
    ttft = ttft_estimate(trials, full_ms)
    return Point(
        candidate=candidate,
        questions=len(trials),
        loss=Spread.of(trials).estimate(),
        ttft_ms=Estimate(float("inf"), 0.0, float("inf")) if ttft is None else ttft,
        memory_bytes=max(trial.memory_bytes for trial in trials),
        tokens_kept=fmean(trial.tokens_kept for trial in trials),
        agreement=fmean(agreed) if agreed else None,
    )


def _full_point(candidate: Candidate, trials: Sequence[FullTrial]) -> Point:
    return Point(
        candidate=candidate,
        questions=len(trials),
        loss=Estimate(0.0, 0.0, 0.0),
        ttft_ms=middle([trial.ttft_ms for trial in trials]),
        memory_bytes=max(trial.memory_bytes for trial in trials),
        tokens_kept=fmean(trial.tokens_kept for trial in trials),
        agreement=None,
    )
