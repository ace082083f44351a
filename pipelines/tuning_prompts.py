"""Questions about any video, for who has none: what the full model answers is the answer to be kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from streamprune.pipelines.jobs import JobLine

PROMPTS = (
    "Describe the video.",
    "What happens in the first scene?",
    "Describe the last scene.",
    "What happens in the last scene?",
    "How many scenes are in the video?",
    "What is the main object?",
)


def loyalty_jobs(videos: Sequence[str | os.PathLike[str]], prompts: Sequence[str] = PROMPTS) -> list[JobLine]:
    """The same questions about each of ``videos``, to which no right answer is known."""
    return [
        JobLine(id=f"{number}.{place}", video=Path(video), question=prompt)
        for number, video in enumerate(videos, 1)
        for place, prompt in enumerate(prompts, 1)
    ]
