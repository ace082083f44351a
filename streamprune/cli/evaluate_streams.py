"""``streamprune eval --suite stream``: what memories still know of things seen for a moment, long ago."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from streamprune.cli.app import progress_bars
from streamprune.cli.evaluate_answers import noted_answers

if TYPE_CHECKING:
    from streamprune.embedded.evaluate.needles import Needles

MEMORY_BYTES = ("8MB", "32MB", "128MB")
QUESTIONS, FRAMES, STREAMS = 200, 1800, 2
_WIDTH = 130
# what makes two records one
_SAME = ("eval", "model", "streams", "frames", "questions", "context_tokens")


def evaluate_streams(
    memories: Sequence[str] | None,
    memory_bytes: Sequence[str] | None,
    streams: int | None,
    questions: int,
    num_frames: int | None,
    model: str,
    *,
    answers: Path | None,
    json_file: Path | None,
) -> None:
    """Measure and show memories, by default all; go on with what the files hold already."""
    from streamprune.budget import read_bytes
    from streamprune.checks import check_count
    from streamprune.embedded.evaluate.needles import BASELINES, KEY, Needles
    from streamprune.errors import UnknownNameError
    from streamprune.registry import list_methods
    from streamprune.report.writable import check_writable

    named = [row.name for row in list_methods("memory")]
    known = [*named, *BASELINES]
    for name in memories or ():
        if name not in known:
            raise UnknownNameError.among("memory", name, known)
    sizes = [read_bytes("memory_bytes", size) for size in memory_bytes or MEMORY_BYTES]
    shown = FRAMES if num_frames is None else num_frames
    shared_by = STREAMS if streams is None else streams
    for name, count in (("streams", shared_by), ("num_frames", shown)):
        check_count(name, count)
    for path in (answers, json_file):
        if path is not None:
            check_writable(path)
    # keep_all is there to be measured against, in all the bytes that it takes
    chosen = memories or [name for name in known if name != "keep_all"]
    with progress_bars() as report:
        suite = Needles(shared_by, shown, questions, report, model)
        done = {} if json_file is None else _earlier(json_file, _about(suite))
        with noted_answers(answers, json_file, lambda: _run(suite), KEY) as lines:
            suite.lines = lines
            record = _measure(suite, chosen, sizes, done, json_file)
    from streamprune.report.needles import needles_table

    Console(width=max(_WIDTH, Console().width)).print(needles_table(record))
    for path in (answers, json_file):
        if path is not None:
            Console(stderr=True, highlight=False, soft_wrap=True).print(f"written: {path}")


def _about(suite: Needles) -> dict[str, Any]:
    """A record without its rows."""
    from streamprune.report.record import circumstances

    return {
        "eval": "stream",
        **circumstances(["streamprune", *sys.argv[1:]]),
        "model": suite.model,
        "streams": suite.streams,
        "frames": suite.frames,
        "questions": suite.questions,
        "context_frames": suite.context_frames,
        "context_tokens": suite.context_tokens,
    }


def _run(suite: Needles) -> str:
    """The fingerprint of a file of answers."""
    from streamprune.models.fingerprint import fingerprint as weights_of
    from streamprune.pipelines.journal import fingerprint

    settings = {name: value for name, value in _about(suite).items() if name in _SAME}
    return fingerprint(settings | {"weights": weights_of(suite.family)})


def _measure(
    suite: Needles,
    memories: Sequence[str],
    sizes: Sequence[int],
    done: dict[tuple[str, int | None], dict[str, Any]],
    json_file: Path | None,
) -> dict[str, Any]:
    """Rows of ``memories``, and what ``done`` holds besides, which is not measured again."""
    from streamprune.embedded.evaluate.needles import loyalty
    from streamprune.report.record import write_record

    record: dict[str, Any] = _about(suite) | {"rows": []}
    for memory, size, measure in _rows(suite, memories, sizes):
        figures = done.pop((memory, size), None) or {"memory": memory, "memory_bytes": size, **measure()}
        record["rows"].append(figures)
        for row in record["rows"]:
            same = loyalty(suite.lines.done, row["memory"], row["memory_bytes"])
            row |= {} if same is None else {"loyalty": same}
        if json_file is not None:
            # what was measured survives an interruption
            write_record(json_file, record | {"rows": [*record["rows"], *done.values()]})
    return record | {"rows": [*record["rows"], *done.values()]}


def _rows(
    suite: Needles, memories: Sequence[str], sizes: Sequence[int]
) -> Iterator[tuple[str, int | None, Callable[[], dict[str, Any]]]]:
    """Name, bytes and measurement of every row."""
    from streamprune.embedded.evaluate.needles import BLIND, EVIDENCE, KEEP_ALL

    baselines = {KEEP_ALL: suite.keep_all, EVIDENCE: suite.evidence_only, BLIND: suite.blind}
    for memory in memories:
        if memory in baselines:
            yield memory, None, baselines[memory]
        else:
            for size in sizes:
                yield memory, size, lambda memory=memory, size=size: _figures(suite, memory, size)  # type: ignore[misc]


def _figures(suite: Needles, memory: str, size: int) -> dict[str, Any]:
    """Figures, or why there are none: a budget that is too small for a memory is a result."""
    from streamprune.errors import InvalidValueError

    try:
        return suite.measure(memory, size)
    except InvalidValueError as error:
        return {"refused": str(error)}


def _earlier(json_file: Path, record: Mapping[str, Any]) -> dict[tuple[str, int | None], dict[str, Any]]:
    """The rows that ``json_file`` holds; InvalidValueError when it is about something else."""
    from streamprune.errors import InvalidValueError

    try:
        found = json.loads(json_file.read_text(encoding="utf-8"))
        differs = [name for name in _SAME if found.get(name) != record[name]]
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise InvalidValueError(
            f"{str(json_file)!r} is no record of streams: {error}; name another"
        ) from error
    if differs:
        said = ", ".join(f"{name} {found.get(name)!r}, not {record[name]!r}" for name in differs)
        raise InvalidValueError(f"{str(json_file)!r} holds a record with {said}; remove it or name another")
    return {(row["memory"], row["memory_bytes"]): row for row in found["rows"]}
