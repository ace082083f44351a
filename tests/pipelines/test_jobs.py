"""Lists of questions: what is read, and how every malformed line is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamprune.errors import (
    InvalidValueError,
    SourceNotFoundError,
    SourcePermissionError,
    StreampruneError,
)
from streamprune.pipelines.jobs import JobLine, read_jobs


def _written(folder: Path, *lines: object) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def test_lines_are_read_with_their_defaults(tmp_path: Path) -> None:
    path = _written(
        tmp_path,
        {"video": "a.mp4", "question": "what?"},
        "",
        {"id": 7, "video": "/b.mp4", "question": "which?", "options": ["red", "blue"], "answer": "blue"},
        {"id": "x", "video": "c", "question": "q", "answer": "yes", "start_seconds": 1, "end_seconds": 2.5},
    )
    first, second, third = read_jobs(path)
    assert first == JobLine(id="1", video=tmp_path / "a.mp4", question="what?")
    assert (second.id, second.video, second.options, second.answer) == (
        "7",
        Path("/b.mp4"),
        ("red", "blue"),
        "B",
    )
    assert (third.answer, third.start_seconds, third.end_seconds) == ("yes", 1.0, 2.5)


def test_lines_are_items_with_a_prompt(tmp_path: Path) -> None:
    choice = {"video": "b.mp4", "question": "which?", "options": ["red", "blue"], "answer": "red"}
    free, chosen = read_jobs(_written(tmp_path, {"video": "a.mp4", "question": "what?"}, choice))
    assert (free.item.id, free.item.video, free.prompt) == ("1", tmp_path / "a.mp4", "what?")
    assert (chosen.item.options, chosen.item.answer) == (("red", "blue"), "A")
    assert chosen.prompt == chosen.item.prompt
    assert "B. blue" in chosen.prompt


def test_a_file_of_another_system_is_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"video": "\xc3\xa9.mp4", "question": "q"}\r\n\r\n')
    assert [job.video.name for job in read_jobs(path)] == ["é.mp4"]


GOOD = {"video": "a.mp4", "question": "what?"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object, got list"),
        ("[" * 100_000, "nested too deeply"),
        ('{"video": "a", "video": "b", "question": "q"}', "has 'video' twice"),
        ('{"video": "a", "question": "\\ud800"}', "half of a character"),
        ({"question": "q"}, "has no 'video'"),
        ({"video": "a"}, "has no 'question'"),
        (GOOD | {"vidoe": "b"}, "unknown field 'vidoe'. Did you mean 'video'"),
        (GOOD | {"video": 3}, "video must be the path"),
        (GOOD | {"video": " "}, "video must be the path"),
        (GOOD | {"video": "rtsp://camera/1"}, "not an address"),
        (GOOD | {"question": ""}, "question must not be empty"),
        (GOOD | {"question": ["q"]}, "question must be text"),
        (GOOD | {"id": ""}, "id must not be empty"),
        (GOOD | {"id": 1.5}, "id must be text or an integer"),
        (GOOD | {"options": "red"}, "options must be a list of texts"),
        (GOOD | {"options": ["red"]}, "options must be 2 to 26 texts, got 1"),
        (GOOD | {"options": ["red", "blue"], "answer": "C"}, "answer must be a letter from A to B"),
        (GOOD | {"options": ["red", "blue"], "answer": ""}, "answer must be text"),
        (GOOD | {"answer": 4}, "answer must be text"),
        (GOOD | {"start_seconds": -1}, "start_seconds must be in"),
        (GOOD | {"end_seconds": "3"}, "end_seconds must be a number"),
        ('{"video": "a", "question": "q", "end_seconds": NaN}', "end_seconds must be in"),
        (GOOD | {"start_seconds": 3, "end_seconds": 3}, "end_seconds must be later than 3, got 3"),
    ],
)
def test_a_malformed_line_is_told_by_its_number(tmp_path: Path, line: object, told: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_jobs(_written(tmp_path, GOOD, "", line))
    assert "line 3: " in str(caught.value)
    assert told in str(caught.value)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(b'{"video": "\xff.mp4", "question": "q"}\n')
    with pytest.raises(InvalidValueError, match="line 1: is not UTF-8"):
        read_jobs(path)


def test_ids_that_come_twice_are_told_also_those_that_are_line_numbers(tmp_path: Path) -> None:
    path = _written(tmp_path, GOOD | {"id": "2"}, GOOD, GOOD | {"id": "x"}, GOOD | {"id": "x"})
    with pytest.raises(InvalidValueError) as caught:
        read_jobs(path)
    assert "line 2: id '2' is that of line 1" in str(caught.value)
    assert "line 4: id 'x' is that of line 3" in str(caught.value)


def test_ten_malformed_lines_are_told_and_the_others_counted(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError) as caught:
        read_jobs(_written(tmp_path, *["{"] * 13))
    assert "line 10: " in str(caught.value)
    assert "line 11: " not in str(caught.value)
    assert "and 3 more lines" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: path.write_text("\n \n"), InvalidValueError),
        (lambda path: None, SourceNotFoundError),
        (lambda path: path.mkdir(), SourcePermissionError),
    ],
)
def test_a_file_without_jobs_is_told(tmp_path: Path, make: object, error: type[StreampruneError]) -> None:
    path = tmp_path / "jobs.jsonl"
    assert callable(make)
    make(path)
    with pytest.raises(error, match=r"jobs\.jsonl"):
        read_jobs(path)
