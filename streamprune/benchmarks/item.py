"""One question about one video, as every loader gives it and every run takes it."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streamprune.errors import InvalidValueError

LETTERS = string.ascii_uppercase


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question about one video.

    Args:
        id: unique within its set.
        video: a file, or a folder of images.
        question: the question alone, with what the set puts before it (subtitles, earlier turns).
        options: texts to choose from, without letters; empty where the answer is free. At most 26.
        answer: a letter from "A" where options are given, else the text; None where it is not published.
        category: what tables group by, the set's own type of task.
        tags: more of what the set says, for example domain; ``kind`` is what a second table groups by, and
            ``group`` names items that count only when all of them are right.
        start_seconds: nothing before this may be shown; None is the start of the video.
        end_seconds: nothing after this may be shown; in streaming sets the moment of the question.
        streaming: the question is asked while the video runs.
        evidence: (start, end) in seconds of the parts that hold the answer, where the set has them.
        fps: frames per second of a folder of images.

    Raises:
        InvalidValueError: no id, an answer that is no option's letter, or seconds that are none.
    """

    id: str
    video: Path
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    category: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float | None = None
    end_seconds: float | None = None
    streaming: bool = False
    evidence: tuple[tuple[float, float], ...] = ()
    fps: float | None = None

    def __post_init__(self) -> None:
        if not self.id:
            raise InvalidValueError("id of an item must not be empty")
        self._check_answer()
        self._check_seconds()

    def _check_answer(self) -> None:
        if len(self.options) > len(LETTERS):
            raise InvalidValueError(
                f"options of {self.id!r}: at most {len(LETTERS)}, got {len(self.options)}"
            )
        if self.options and self.answer is not None and self.answer not in self.letters:
            raise InvalidValueError(
                f"answer of {self.id!r} must be a letter from A to {self.letters[-1]}, got {self.answer!r}"
            )

    def _check_seconds(self) -> None:
        for name in ("start_seconds", "end_seconds"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(f"{name} of {self.id!r} must be a number from 0, got {value!r}")
        if self.end_seconds is not None and self.end_seconds < (self.start_seconds or 0.0):
            raise InvalidValueError(
                f"end_seconds of {self.id!r} must not be before start_seconds {self.start_seconds}, "
                f"got {self.end_seconds}"
            )
        if self.streaming and self.end_seconds is None:
            raise InvalidValueError(f"{self.id!r} is asked in a stream and needs end_seconds, its moment")
        if any(not 0 <= start <= end < math.inf for start, end in self.evidence):
            raise InvalidValueError(
                f"evidence of {self.id!r} must be (start, end) in seconds, got {self.evidence}"
            )

    @property
    def letters(self) -> str:
        """One letter for each option, "ABCD" for four."""
        return LETTERS[: len(self.options)]

    @property
    def prompt(self) -> str:
        """The question, its options with letters, and how to answer: what a model is asked."""
        if not self.options:
            return f"{self.question}\nAnswer in a word or a short phrase."
        lines = [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return "\n".join((self.question, *lines, "Answer with the letter of the right option only."))
