"""Several videos at once: their prompts go through the language model side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError
from streamprune.models.base import Prompt
from streamprune.models.generation import generate_batch
from streamprune.pipelines.answers import Answer
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.encoding import EncodedVideo
from streamprune.pipelines.job import Job, Reduced, stats_of
from streamprune.readers import Source


def read_videos(video: object) -> list[Any] | None:
    """The videos that ``video`` holds if it is a list of them; None for one video.

    A list of nothing but pictures is one video. It is a list of videos as soon as one of its entries is a
    path, an open source, an encoded video, or an array of frames.
    """
    if not isinstance(video, list | tuple) or not any(map(_is_video, video)):
        return None
    return list(video)


def _is_video(one: object) -> bool:
    if isinstance(one, str | os.PathLike | EncodedVideo | Source):
        return True
    return len(getattr(one, "shape", ())) == 4


@dataclass(frozen=True)
class _Row:
    """One video and its question, ready for the language model."""

    question: str
    job: Job
    reduced: Reduced
    prompt: Prompt


def ask_several(asking: Asking, videos: Sequence[Any], one_question: bool, at_once: int) -> list[Answer]:
    """An answer for each video, as if it had been asked alone.

    Args:
        one_question: the same question for all; else one for each.
        at_once: so many go through the language model together, if they can at all.
    """
    check_count("videos_per_batch", at_once)
    questions = asking.request.questions * (len(videos) if one_question else 1)
    if len(questions) != len(videos):
        raise InvalidValueError(
            f"question must be one text, or one for each of the {len(videos)} videos, got {len(questions)}"
        )
    pairs = list(zip(videos, questions, strict=True))
    if not go_together(asking):
        at_once = 1
    answers = []
    for start in range(0, len(pairs), at_once):
        rows = [_prepared(asking, video, question) for video, question in pairs[start : start + at_once]]
        answers += _answered(asking, rows)
    return answers


def go_together(asking: Asking) -> bool:
    """Whether prompts side by side give what each gives alone.

    Not where a method acts inside the language model or on its cache, nor where layers hand a state from
    token to token, which what fills up shorter prompts would go through as well.
    """
    kinds = getattr(asking.family.text_config, "layer_types", None) or ()
    hybrid = any("linear" in kind for kind in kinds)
    return not hybrid and not {"in_llm", "kv"} & asking.request.recipe.stages.keys()


def _prepared(asking: Asking, video: Any, question: str) -> _Row:
    job = asking.prepare(video, question)
    reduced = asking.reduce(job, question)
    return _Row(question, job, reduced, asking.prompt(job, question, reduced))


def _answered(asking: Asking, rows: Sequence[_Row]) -> list[Answer]:
    if len(rows) == 1:
        (row,) = rows
        return [asking.answer(row.job, row.question, row.reduced)]
    out = generate_batch(
        asking.family,
        [row.prompt for row in rows],
        max_new_tokens=asking.request.max_new_tokens,
        sampling=asking.request.sampling,
    )
    answers = []
    for row, one in zip(rows, out, strict=True):
        stats = stats_of(asking.shape, row.job, row.reduced, len(row.prompt), one, rows=len(rows))
        answers.append(asking.told(row.job, row.question, one.text, stats))
    return answers
