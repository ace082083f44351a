"""What a batch came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class Work:
    """What the workers did.

    Attributes:
        workers: how many there were.
        videos: encoded, or given up; a video is one more for every part of it that is asked about.
        questions: answered, or given up.
        deaths: workers that ended before they were told to.
        load_seconds: until every worker had its model.
        steady_videos, steady_questions, steady_seconds: from then on.
        decode_seconds, model_seconds: of all workers together, from then on.
    """

    workers: int = 0
    videos: int = 0
    questions: int = 0
    deaths: int = 0
    load_seconds: float = 0.0
    steady_videos: int = 0
    steady_questions: int = 0
    steady_seconds: float = 0.0
    decode_seconds: float = 0.0
    model_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """What a run did.

    Attributes:
        output: file of the answers.
        questions: asked for, those that were answered before included.
        found: of them in the output already.
        failed: (id, error) of those without an answer, in the order of the jobs.
        wall_seconds: the whole run, with loading the model.
        work: what the workers did.
    """

    output: Path
    questions: int
    found: int
    failed: tuple[tuple[str, str], ...]
    wall_seconds: float
    work: Work

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON.

        Rates are those from when every worker had its model on, shares those of one worker in that time;
        None where nothing was asked then.
        """
        work = self.work
        worked = work.steady_seconds * work.workers
        return {
            "output": str(self.output),
            "questions": self.questions,
            "found": self.found,
            "failed": [{"id": name, "error": error} for name, error in self.failed],
            "wall_seconds": self.wall_seconds,
            "work": asdict(work),
            "videos_per_second": _ratio(work.steady_videos, work.steady_seconds),
            "questions_per_second": _ratio(work.steady_questions, work.steady_seconds),
            "decode_share": _ratio(work.decode_seconds, worked),
            "model_share": _ratio(work.model_seconds, worked),
        }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
