"""Folders with something wrong: each gives one message that says which file, which record, and what to do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from streamprune.benchmarks import BENCHMARKS, detect, load_items, load_set
from streamprune.errors import (
    InvalidValueError,
    MissingDependencyError,
    SourceFormatError,
    SourceNotFoundError,
    UnknownNameError,
)
from tests.benchmarks.releases import RELEASES, Release


def _flat(contents: Any) -> list[dict[str, Any]]:
    """The records of a file, chains joined."""
    return [one for row in contents for one in (row if isinstance(row, list) else [row])]


@pytest.mark.parametrize(
    ("name", "column"),
    [(name, column) for name, benchmark in BENCHMARKS.items() for column in benchmark.columns],
)
def test_a_missing_column_is_named(name: str, column: str, tmp_path: Path, clip: Path) -> None:
    release = RELEASES[name]
    # what is only used to tell the sets apart, or not at all, may be missing
    if (name, column) in {
        ("mlvu", "duration"),
        ("mlvu", "question_type"),
        ("longvideobench", "subtitle_path"),
        ("longvideobench", "starting_timestamp_for_subtitles"),
        ("vnbench", "gt"),
    }:
        folder = release.with_column(column, ...).write(tmp_path, clip)
        assert load_items(name, folder)
        return
    folder = release.with_column(column, ...).write(tmp_path, clip)
    where = rf"{Path(release.first_file).name}.*: no column '{column}'; found the columns '"
    with pytest.raises(InvalidValueError, match=where):
        load_items(name, folder)


BAD_VALUES: list[tuple[str, str, Any, str]] = [
    ("video-mme", "answer", "E", "record 1: column 'answer' must be a letter from A to D, got 'E'"),
    (
        "video-mme",
        "options",
        "A. Two.",
        "column 'options' must be a list of at least two texts, got 'A. Two.'",
    ),
    ("video-mme", "options", [1, None], "column 'options' must be a list of texts"),
    ("video-mme", "duration", "tiny", "column 'duration' must be short, medium or long, got 'tiny'"),
    ("video-mme", "question", ["x"], "column 'question' must be text"),
    ("video-mme", "question", None, "nothing in column 'question'"),
    ("mlvu", "answer", "A boat", "must be one of the options .*'A sack'.* got 'A boat'"),
    ("longvideobench", "correct_choice", 3, r"column 'correct_choice' must be an integer in \[0, 2\], got 3"),
    ("longvideobench", "correct_choice", 0.5, r"must be an integer in \[0, 2\], got 0.5"),
    ("longvideobench", "correct_choice", "x", "column 'correct_choice' must be a number, got 'x'"),
    ("mvbench", "start", "soon", "action_sequence.json, record 1: column 'start' must be a number"),
    ("next-qa", "answer", 5, r"val.csv, record 1: column 'answer' must be an integer in \[0, 4\], got '5'"),
    ("streamingbench", "answer", "F", "questions_real.json, entry 1, record 1, questions 1: .*from A to D"),
    ("streamingbench", "time_stamp", "later", "questions 1: a time must be h:mm:ss, got 'later'"),
    ("streamingbench", "questions", 3, "column 'questions' must be a list of records, got 3"),
    ("ovo-bench", "task", "XYZ", "column 'task' must be one of EPM, ASI"),
    ("ovo-bench", "gt", 3, r"column 'gt' must be an integer in \[0, 2\], got 3"),
    ("ovo-bench", "count", -1, r"test_info 1: column 'count' must be an integer in \[0, 1000000\], got -1"),
    ("ovo-bench", "type", 2, r"column 'type' must be an integer in \[0, 1\], got 2"),
    ("ovo-bench", "realtime", -3, "end_seconds of '0' must be a number from 0, got -3.0"),
    ("vnbench", "type", "sum", "column 'type' must be one that begins with ret, ord, cnt, got 'sum'"),
    ("vnbench", "gt_option", "E", "column 'gt_option' must be a letter from A to D"),
    ("cg-bench", "clue_intervals", [[9, 3]], r"column 'clue_intervals' must be a list of \[start, end\]"),
    ("conversations", "temporal_windows", [5.0, 9.0], "column 'temporal_windows' must be a list of"),
    ("conversations", "answer", "attic", "conversations 1: column 'answer' must be one of the options"),
]


@pytest.mark.parametrize(("name", "column", "value", "match"), BAD_VALUES)
def test_bad_values(name: str, column: str, value: Any, match: str, tmp_path: Path, clip: Path) -> None:
    folder = RELEASES[name].with_column(column, value).write(tmp_path, clip)
    with pytest.raises(InvalidValueError, match=match):
        load_items(name, folder)


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ({"001934bb-81bd": 5}, r"answer of '001934bb-81bd' must be an integer in \[0, 4\], got 5"),
        ({"001934bb-81bd": "D"}, "must be an integer in"),
        ({"nobody": 1}, "q_uid 'nobody' is not in questions.json"),
        ([1, 2], "must map q_uid to an index, got list"),
    ],
)
def test_bad_answers_of_egoschema(answers: Any, match: str, tmp_path: Path, clip: Path) -> None:
    folder = RELEASES["egoschema"].changed("subset_answers.json", answers).write(tmp_path, clip)
    with pytest.raises((InvalidValueError, SourceFormatError), match=match):
        load_items("egoschema", folder)


def test_egoschema_without_its_answers(tmp_path: Path, clip: Path) -> None:
    folder = RELEASES["egoschema"].write(tmp_path, clip)
    (folder / "subset_answers.json").unlink()
    loaded = load_set("egoschema", folder)
    assert [item.answer for item in loaded.items] == [None, None]
    assert loaded.notes == ("subset_answers.json is not there: no question has an answer",)
    with pytest.raises(SourceNotFoundError, match=r"subset_answers\.json is missing"):
        load_items("egoschema", folder, subset="subset")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_missing_videos_are_counted_and_named(name: str, tmp_path: Path, clip: Path) -> None:
    release = RELEASES[name]
    folder = release.write(tmp_path, clip)
    whole = load_set(name, folder)
    videos = list(dict.fromkeys(item.video for item in whole.items))
    gone = videos[0]
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    match = rf"1 of {len(videos)} videos are missing below .*: {gone.relative_to(folder)}; "
    with pytest.raises(SourceNotFoundError, match=match):
        load_items(name, folder)
    if len(videos) == 1:
        with pytest.raises(SourceNotFoundError, match="there is nothing to ask about"):
            load_items(name, folder, allow_missing=True)
        return
    loaded = load_set(name, folder, allow_missing=True)
    assert loaded.missing == (gone,)
    assert loaded.items == tuple(item for item in whole.items if item.video != gone)
    assert loaded.skipped == len(whole.items) - len(loaded.items)


def test_many_missing_videos_are_not_all_listed(tmp_path: Path, clip: Path) -> None:
    record = RELEASES["cg-bench"].files["cgbench_mini.json"][0]
    records = [{**record, "qid": number, "video_uid": f"v{number}"} for number in range(8)]
    folder = Release({"cgbench.json": records}, ("videos/v7.mp4",)).write(tmp_path, clip)
    with pytest.raises(
        SourceNotFoundError, match=r"7 of 8 videos .*v4\.mp4 and 2 more; leave out .*allow_mis"
    ):
        load_items("cg-bench", folder)


def test_a_missing_video_somewhere_else(tmp_path: Path, clip: Path) -> None:
    folder = RELEASES["cg-bench"].with_column("video_uid", "/nowhere/at all").write(tmp_path, clip)
    with pytest.raises(SourceNotFoundError, match=r"1 of 2 videos are missing .*: /nowhere/at all\.mp4; "):
        load_items("cg-bench", folder)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_another_folder_is_not_this_set(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"is not a folder of .*: looked for .*Expected: "):
        load_items(name, tmp_path)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="nowhere is no folder; give the one"):
        load_items("mlvu", tmp_path / "nowhere")
    with pytest.raises(SourceNotFoundError, match="nowhere is no folder; give the one"):
        load_items("auto", tmp_path / "nowhere")
    with pytest.raises(SourceNotFoundError, match=r"is no folder of a known set\. Looked for video-mme: "):
        detect(tmp_path)


def test_a_folder_of_two_sets_must_be_named(tmp_path: Path, clip: Path) -> None:
    for name in ("mlvu", "vnbench"):
        RELEASES[name].write(tmp_path, clip)
    with pytest.raises(SourceNotFoundError, match="could be any of mlvu, vnbench; say which"):
        detect(tmp_path)
    assert len(load_items("vnbench", tmp_path)) == 4


def test_a_broken_file_is_not_an_unknown_set(tmp_path: Path) -> None:
    Release({"VNBench-main-4try.json": "[{]"}, ()).write(tmp_path, tmp_path)
    with pytest.raises(SourceFormatError, match=r"VNBench-main-4try\.json is broken JSON at line 1"):
        detect(tmp_path)


def test_unknown_names(tmp_path: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown set of questions 'videommf'\. Did you mean 'video-mme'"
    ):
        load_items("videommf", tmp_path)
    with pytest.raises(UnknownNameError, match=r"unknown subset of VNBench 'all'\..* Known: cnt, ord, ret"):
        load_items("vnbench", folders["vnbench"], subset="all")
    with pytest.raises(
        InvalidValueError, match=r"needs a set with subtitles \(video-mme, .*\); MLVU has none"
    ):
        load_items("mlvu", folders["mlvu"], subtitles=True)
    with pytest.raises(InvalidValueError, match="holds no question of Video-MME of subset 'medium'"):
        load_items("video-mme", folders["video-mme"], subset="medium")


def test_proactive_questions_are_refused_by_name(folders: dict[str, Path]) -> None:
    with pytest.raises(InvalidValueError, match=r"'proactive' of StreamingBench: .*polled every second"):
        load_items("streamingbench", folders["streamingbench"], subset="proactive")


@pytest.mark.parametrize(
    ("name", "file", "text", "match"),
    [
        (
            "vnbench",
            "VNBench-main-4try.json",
            '[{"video": 1},\n{"video" 2}]',
            "broken JSON at line 2, column 10",
        ),
        ("vnbench", "VNBench-main-4try.json", '{"video": 1}', "must hold a list of records, got dict"),
        ("vnbench", "VNBench-main-4try.json", "[1]", "record 1 must be a record with named columns, got int"),
        ("vnbench", "VNBench-main-4try.json", "", "broken JSON at line 1"),
        (
            "streamingbench",
            "questions_sqa.json",
            '{"a": 1}',
            r"questions_sqa\.json must hold a list, got dict",
        ),
        ("egoschema", "subset_answers.json", "{", r"subset_answers\.json is broken JSON at line 1"),
        ("next-qa", "val.csv", "video,qid\n1,2,3\n", "more values than columns at line 2"),
        ("next-qa", "val.csv", 'video,qid\n1,"2\n', "broken CSV at line"),
        ("next-qa", "map_vid_vidorID.json", "[1]", "must map numbers to files, got list"),
        ("longvideobench", "subtitles/86CxyhFV9MI_en.json", '[{"timestamp": 3}]', "timestamp must be"),
        ("video-mme", "subtitle/fFjv93ACGo8.srt", "no times", "has no line of the form 00:00:01,000"),
    ],
)
def test_broken_files(name: str, file: str, text: str, match: str, tmp_path: Path, clip: Path) -> None:
    folder = RELEASES[name].changed(file, text).write(tmp_path, clip)
    with pytest.raises(SourceFormatError, match=match):
        load_items(name, folder, subtitles=name in ("video-mme", "longvideobench"))


def test_a_broken_line_of_many(tmp_path: Path, clip: Path) -> None:
    Release({"Video-MME.jsonl": '{"videoID": "a"}\n\n{"videoID":\n'}, ()).write(tmp_path, clip)
    with pytest.raises(SourceFormatError, match=r"Video-MME\.jsonl is broken JSON at line 3"):
        load_items("video-mme", tmp_path)
    (tmp_path / "Video-MME.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceFormatError, match=r"Video-MME\.jsonl is no UTF-8 text at byte 0"):
        load_items("video-mme", tmp_path)


@pytest.mark.parametrize("name", ["video-mme", "next-qa", "vnbench", "cg-bench"])
def test_ids_there_twice(name: str, tmp_path: Path, clip: Path) -> None:
    release = RELEASES[name]
    records = _flat(release.files[release.first_file])
    folder = release.changed(release.first_file, [*records, records[0]]).write(tmp_path, clip)
    with pytest.raises(InvalidValueError, match="1 ids are there more than once, the first: "):
        load_items(name, folder)


def test_parquet_needs_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "videomme").mkdir()
    (tmp_path / "videomme/test-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'streamprune\[parquet\]'"):
        load_items("video-mme", tmp_path)
