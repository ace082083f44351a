"""Lines that survive kills: nothing lost, nothing twice, nobody else's."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from streamprune.errors import InvalidValueError, StorageError
from streamprune.pipelines.journal import Journal, fingerprint

RUN = fingerprint({"recipe": "fastvid", "keep_ratio": 0.1})


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_journal_goes_on_where_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    with Journal.open(path, run=RUN) as journal:
        journal.add({"id": "b", "text": "two\nlines"})
    with Journal.open(path, run=RUN) as journal:
        assert journal.done == {("b",): {"id": "b", "text": "two\nlines", "run": RUN}}
        with pytest.raises(InvalidValueError, match="line for 'b' already"):
            journal.add({"id": "b", "text": "again"})
        journal.add({"id": "a", "text": "ä"})
        journal.finish([("a",), ("b",), ("never",)])
        journal.add({"id": "c", "text": ""})
    assert [row["id"] for row in _rows(path)] == ["a", "b", "c"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal.open(path, run=RUN) as journal:
        for name in ("a", "b"):
            journal.add({"id": name})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with Journal.open(path, run=RUN) as journal:
            assert len(journal.done) == (length >= first)
            for name in ("a", "b"):
                if (name,) not in journal.done:
                    journal.add({"id": name})
        assert path.read_bytes() == whole, length


def test_keys_of_several_entries(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal.open(path, run=RUN, key=("id", "recipe", "keep_ratio")) as journal:
        journal.add({"id": "a", "recipe": "stride", "keep_ratio": 0.1})
        journal.add({"id": "a", "recipe": "stride", "keep_ratio": None})
        journal.forget([("a", "stride", 0.1)])
        journal.add({"id": "a", "recipe": "stride", "keep_ratio": 0.1})
    with Journal.open(path, run=RUN, key=("id", "recipe", "keep_ratio")) as journal:
        assert list(journal.done) == [("a", "stride", None), ("a", "stride", 0.1)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"id": "a", "run": "other"}\n', "written by another run"),
        (f'{{"id": "a", "run": "{RUN}"}}\n' * 2, "line 2 .* a second time"),
        ('{"id": "a"}\n', "line 1 .* must be a JSON object with id, run"),
        ("[]\n", "line 1"),
        (f'{{"id": ["a"], "run": "{RUN}"}}\n', "line 1"),
        ("\n", "line 1"),
        ("my thesis", "holds no lines of JSON"),
        ("my thesis\n", "line 1"),
    ],
)
def test_files_of_others_stay_as_they_are(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content, encoding="utf-8")
    for _ in range(2):  # the lock was let go of
        with pytest.raises(InvalidValueError, match=says):
            Journal.open(path, run=RUN)
    assert path.read_text(encoding="utf-8") == content


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal.open(path, run=RUN), pytest.raises(InvalidValueError, match="being written by another"):
        Journal.open(path, run=RUN)
    journal = Journal.open(path, run=RUN)
    journal.close()
    with Journal.open(path, run=RUN):
        journal.close()  # a second time lets go of nobody else's
        with pytest.raises(InvalidValueError, match="being written by another"):
            Journal.open(path, run=RUN)


def test_a_full_disk_keeps_the_lines_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    with Journal.open(path, run=RUN, sync_seconds=-1.0) as journal:
        journal.add({"id": "a"})
        before = path.read_bytes()
        monkeypatch.setattr(os, "fsync", _full)
        with pytest.raises(StorageError, match="No space left"):
            journal.add({"id": "b"})
        assert path.read_bytes() == before
        monkeypatch.undo()
        journal.add({"id": "b"})
    assert [row["id"] for row in _rows(path)] == ["a", "b"]


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write"):
        Journal.open(tmp_path / "file" / "answers.jsonl", run=RUN)
    with pytest.raises(StorageError, match="cannot write"):
        Journal.open(tmp_path, run=RUN)
    journal = Journal.open(tmp_path / "answers.jsonl", run=RUN)
    journal.close()
    with pytest.raises(InvalidValueError, match="was closed"):
        journal.add({"id": "a"})


def test_fingerprints_tell_settings_apart() -> None:
    assert fingerprint({"a": 1, "b": Path("x")}) == fingerprint({"b": Path("x"), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(RUN) == 16
