"""Lists of questions about videos: one JSON object a line, as ``batch``, ``tune`` and ``eval`` take them.

{"id": "door", "video": "clips/hall.mp4", "question": "Who opens the door?"}
{"video": "clips/hall.mp4", "question": "What color is it?", "options": ["red", "blue"], "answer": "B"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from streamprune.benchmarks.item import LETTERS, Item
from streamprune.checks import check_number
from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    SourceNotFoundError,
    SourcePermissionError,
    UnknownNameError,
    UsageError,
)
from streamprune.models.chat_template import check_question

# malformed lines that one message tells of
_TOLD_LINES = 10
# a moment later than this (a thousand years) is no moment of a video
_MOST_SECONDS = 3.2e10


@dataclass(frozen=True, kw_only=True)
class JobLine:
    """One question about one video.

    Attributes:
        id: unique in its list; the number of the line where none is given.
        video: a file or a folder of images.
        question: what is asked.
        options: what may be answered, without letters; empty for a free answer.
        answer: the right one, where it is known: a letter where there are options, else text.
        start_seconds, end_seconds: only this part is shown.
    """

    id: str
    video: Path
    question: str
    options: tuple[str, ...] = ()
    answer: str | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None

    @property
    def item(self) -> Item:
        """The same as loaders of benchmarks give it."""
        return Item(**{name: getattr(self, name) for name in _FIELDS})

    @property
    def prompt(self) -> str:
        """What a model is asked: the question as it stands, or with lettered options below it."""
        return self.item.prompt if self.options else self.question


_FIELDS = tuple(one.name for one in fields(JobLine))


def read_jobs(path: str | Path) -> list[JobLine]:
    """The questions of the file ``path``, in its order; empty lines are passed over.

    Relative videos are looked for beside the file. Whether they are there is not looked at.

    Raises SourceNotFoundError or SourcePermissionError, and InvalidValueError with the numbers of the lines
    that are malformed or repeat an id, or when there is no question at all.
    """
    path = Path(path)
    jobs: list[JobLine] = []
    wrong: list[str] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            job = _read(_object(line), number, path.parent)
            if job.id in first_line:
                raise InvalidValueError(f"id {job.id!r} is that of line {first_line[job.id]}, too")
        except UsageError as error:
            wrong.append(f"line {number}: {error}")
            continue
        first_line[job.id] = number
        jobs.append(job)
    if wrong:
        more = [f"and {len(wrong) - _TOLD_LINES} more lines"] if len(wrong) > _TOLD_LINES else []
        raise InvalidValueError("\n  ".join([f"{path}: malformed jobs:", *wrong[:_TOLD_LINES], *more]))
    if not jobs:
        raise InvalidValueError(
            f'{path}: holds no jobs; give one a line, e.g. {{"video": "a.mp4", "question": "..."}}'
        )
    return jobs


def _lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file of jobs") from error
    except OSError as error:
        raise SourcePermissionError(f"{path}: cannot read the jobs: {error.strerror or error}") from error
    return content.removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line."""
    try:
        value = json.loads(line, object_pairs_hook=_without_twins)
    except UnicodeDecodeError as error:
        raise InvalidValueError("is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise InvalidValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise InvalidValueError("is not JSON that can be read: nested too deeply") from error
    if not isinstance(value, dict):
        raise InvalidTypeError(f"must be a JSON object, got {type(value).__name__}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError("holds half of a character, which cannot be written back") from error
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise InvalidValueError(f"has {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _read(entry: Mapping[str, Any], number: int, folder: Path) -> JobLine:
    for name in entry:
        if name not in _FIELDS:
            raise UnknownNameError.among("field", name, _FIELDS)
    for name in ("video", "question"):
        if name not in entry:
            raise InvalidValueError(f"has no {name!r}")
    options = _options(entry.get("options"))
    answer = entry.get("answer")
    start, end = (_seconds(name, entry.get(name)) for name in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0):
        raise InvalidValueError(f"end_seconds must be later than {start or 0:g}, got {end:g}")
    return JobLine(
        id=_id(entry.get("id", number)),
        video=_video(entry["video"], folder),
        question=check_question(entry["question"]),
        options=options,
        answer=None if answer is None else _answer(answer, options),
        start_seconds=start,
        end_seconds=end,
    )


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidTypeError(f"id must be text or an integer, got {value!r}")
    if not str(value).strip():
        raise InvalidValueError("id must not be empty; leave it out to have the line's number")
    return str(value)


def _video(value: object, folder: Path) -> Path:
    if not isinstance(value, str):
        raise InvalidTypeError(f"video must be the path of a file or folder, got {value!r}")
    if not value.strip() or "\0" in value:
        raise InvalidValueError(f"video must be the path of a file or folder, got {value!r}")
    if "://" in value:
        raise InvalidValueError(f"video must be the path of a file or folder, not an address, got {value!r}")
    return folder / value


def _options(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) and one.strip() for one in value):
        raise InvalidTypeError(f"options must be a list of texts, got {value!r}")
    if not 2 <= len(value) <= len(LETTERS):
        raise InvalidValueError(f"options must be 2 to {len(LETTERS)} texts, got {len(value)}")
    return tuple(value)


def _answer(value: object, options: tuple[str, ...]) -> str:
    """A letter where there are options; the text of an option stands for its letter."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidTypeError(f"answer must be text, got {value!r}")
    if not options:
        return value
    letters = LETTERS[: len(options)]
    if value in options:
        return letters[options.index(value)]
    if len(value) != 1 or value.upper() not in letters:
        raise InvalidValueError(
            f"answer must be a letter from A to {letters[-1]}, or the text of an option, got {value!r}"
        )
    return value.upper()


def _seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    check_number(name, value, 0, _MOST_SECONDS)
    return float(value)  # type: ignore[arg-type]  # just checked
