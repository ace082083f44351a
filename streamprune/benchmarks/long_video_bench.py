"""LongVideoBench: videos of up to an hour with subtitles, two to five options.

Source: the set's release (longvideobench/LongVideoBench): lvb_val.json, lvb_test_wo_gt.json, videos, and
subtitles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from streamprune.benchmarks.base import Benchmark, SetFolder, letter_at
from streamprune.benchmarks.item import Item
from streamprune.benchmarks.records import Record, read_records
from streamprune.benchmarks.subtitles import Line, clock_seconds, plain, with_subtitles
from streamprune.errors import SourceFormatError

_OPTION = re.compile(r"option\d+")


class LongVideoBench(Benchmark):
    """Subsets are "val" (default where it is there) and "test", whose answers are not published.

    The kind of items is the group of lengths. Subtitles belong to the whole video that a clip was cut from:
    they are moved to the clip's own seconds and those outside it are left out. The authors put them between
    the frames; here they stand before the question.
    """

    name = "longvideobench"
    title = "LongVideoBench"
    question_files = ("lvb_val.json", "validation-*.parquet", "lvb_test_wo_gt.json", "test-*.parquet")
    columns = ("id", "video_path", "subtitle_path", "question", "starting_timestamp_for_subtitles")
    layout = "lvb_val.json, lvb_test_wo_gt.json, videos/NAME.mp4, subtitles/NAME.json"
    subsets = ("val", "test")
    has_subtitles = True

    def paths(self, folder: SetFolder) -> list[Path]:
        """The files of the wanted part."""
        names = {"val": self.question_files[:2], "test": self.question_files[2:]}
        return folder.files(names.get(folder.subset or "", self.question_files))

    def items(self, folder: SetFolder) -> Iterator[Item]:
        """One item for each question; without an answer where the file has none."""
        silent = 0
        for record in self.records(folder):
            options = _options(record)
            question = record.text("question")
            if folder.subtitles:
                path = folder.path / "subtitles" / record.text("subtitle_path")
                silent += not path.is_file()
                question = with_subtitles(question, _said(path, record))
            yield Item(
                id=record.text("id"),
                video=folder.video(record.text("video_path"), "videos", "video"),
                question=question,
                options=options,
                answer=letter_at(record, "correct_choice", options) if "correct_choice" in record else None,
                category=record.text("question_category", ""),
                tags={
                    "kind": record.text("duration_group", ""),
                    "level": record.text("level", ""),
                    "topic": record.text("topic_category", ""),
                },
            )
        if silent:
            folder.notes.append(f"{silent} questions have no file in subtitles/; asked without")


def _options(record: Record) -> tuple[str, ...]:
    """The list of the json release, or the option0 to option4 of the parquet one ("N/A": there is none)."""
    if "candidates" in record or not any(_OPTION.fullmatch(name) for name in record.values):
        return record.texts("candidates")
    names = sorted(name for name in record.values if _OPTION.fullmatch(name) and name in record)
    return tuple(text for name in names if (text := record.text(name)) != "N/A")


def _said(path: Path, record: Record) -> list[Line]:
    """What is said in the clip, by the file of its whole video; nothing where there is no file."""
    if not path.is_file():
        return []
    start, length = record.number("starting_timestamp_for_subtitles"), record.number("duration")
    lines = (_line(entry, length) for entry in read_records(path))
    inside = (Line(line.start_seconds - start, line.end_seconds - start, line.text) for line in lines)
    return [line for line in inside if line.text and line.end_seconds > 0 and line.start_seconds < length]


def _line(entry: Record, length: float) -> Line:
    """Either {"timestamp": [start, end], "text"}, perhaps without an end, or {"start", "end", "line"}."""
    if "timestamp" not in entry:
        start, end = (clock_seconds(entry.text(name), entry.place) for name in ("start", "end"))
        return Line(start, end, plain(entry.text("line", "")))
    times = entry.raw("timestamp")
    if not isinstance(times, list) or len(times) != 2 or not isinstance(times[0], int | float):
        raise SourceFormatError(f"{entry.place}: timestamp must be [start, end] in seconds, got {times!r}")
    end = times[1] if isinstance(times[1], int | float) else times[0] + length
    return Line(float(times[0]), float(end), plain(entry.text("text", "")))
