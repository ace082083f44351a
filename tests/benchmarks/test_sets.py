"""Every set's own layout, read into items."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from streamprune.benchmarks import BENCHMARKS, Item, detect, load_items, load_set
from streamprune.errors import InvalidValueError, SourceNotFoundError
from streamprune.readers import open_source
from tests.benchmarks.releases import RELEASES, Release

Folders = dict[str, Path]


def test_every_set_is_tested() -> None:
    assert RELEASES.keys() == BENCHMARKS.keys()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_folders_are_recognised(name: str, folders: Folders) -> None:
    assert detect(folders[name]) == name
    loaded = load_set("auto", folders[name])
    assert loaded.name == name
    assert list(loaded.items) == load_items(name, str(folders[name]))
    assert loaded.missing == ()
    assert loaded.skipped == 0
    assert all(item.video.exists() and item.prompt for item in loaded.items)


def test_video_mme(folders: Folders) -> None:
    first, second = load_items("video-mme", folders["video-mme"])
    assert first == Item(
        id="001-1",
        video=folders["video-mme"] / "data/fFjv93ACGo8.mp4",
        question="How many lanterns hang in the yard?",
        options=("Two.", "Three.", "A dozen.", "None."),
        answer="C",
        category="Counting Problem",
        tags={"kind": "short", "domain": "Knowledge", "sub_category": "Humanity & History"},
    )
    assert second.video.name == "N1cdUjctpG8.MP4"
    assert load_items("VideoMME", folders["video-mme"], subset="long") == [second]


def test_video_mme_with_subtitles(folders: Folders) -> None:
    loaded = load_set("video-mme", folders["video-mme"], subtitles=True)
    first, second = loaded.items
    assert first.question.splitlines()[1:3] == ["Good & bad", "lanterns"]
    assert first.question.endswith("\nHow many lanterns hang in the yard?")
    assert second.question == "How many lanterns hang in the yard?"
    assert loaded.notes == ("1 videos have no file in subtitle/; asked without",)


def test_mlvu(folders: Folders) -> None:
    loaded = load_set("mlvu", folders["mlvu"])
    assert [(item.id, item.answer, item.category) for item in loaded.items] == [
        ("plotQA_0", "B", "plotQA"),
        ("count_0", "C", "count"),
        ("count_1", "A", "count"),
    ]
    # one name in two tasks is two videos, and folders come with and without the number
    assert [str(item.video.relative_to(folders["mlvu"])) for item in loaded.items[:2]] == [
        "video/1_plotQA/movie_1.mp4",
        "video/count/movie_1.mp4",
    ]
    assert loaded.notes == (
        "9_summary.json: 1 free texts that need a judge are left out; subset 'generation' reads them",
    )
    (summary,) = load_items("mlvu", folders["mlvu"], subset="generation")
    assert (summary.options, summary.answer) == ((), "A man carries water up a hill.")
    assert [item.id for item in load_items("mlvu", folders["mlvu"], subset="count")] == ["count_0", "count_1"]


def test_longvideobench(folders: Folders) -> None:
    (item,) = load_items("longvideobench", folders["longvideobench"])
    assert (item.id, item.answer, item.category) == ("86CxyhFV9MI_0", "B", "T2E")
    assert item.tags["kind"] == "15"
    (unpublished,) = load_items("longvideobench", folders["longvideobench"], subset="test")
    assert unpublished.answer is None


def test_longvideobench_subtitles_are_those_of_the_clip(folders: Folders) -> None:
    (item,) = load_items("longvideobench", folders["longvideobench"], subtitles=True)
    assert item.question.splitlines() == [
        "Subtitles of the video:",
        "the bell rings",
        "and the door opens",
        "",
        "What happens after the bell?",
    ]
    loaded = load_set("longvideobench", folders["longvideobench"], subset="test", subtitles=True)
    assert loaded.notes == ("1 questions have no file in subtitles/; asked without",)


def test_egoschema(folders: Folders) -> None:
    loaded = load_set("egoschema", folders["egoschema"])
    assert [(item.id, item.answer) for item in loaded.items] == [("001934bb-81bd", "D")]
    assert loaded.items[0].options[4] == "C does thing 4"
    assert "1 questions without a published answer" in loaded.notes[0]
    full = load_items("egoschema", folders["egoschema"], subset="full")
    assert [item.answer for item in full] == ["D", None]


def test_mvbench(folders: Folders) -> None:
    loaded = load_set("mvbench", folders["mvbench"])
    sequence, antonym, episode, whole = loaded.items
    assert (sequence.id, sequence.answer) == ("action_sequence_0", "B")
    assert (sequence.start_seconds, sequence.end_seconds, sequence.streaming) == (11.1, 18.2, False)
    assert (antonym.video.suffix, antonym.start_seconds) == (".webm", None)
    assert (episode.fps, episode.end_seconds) == (3.0, 0.9)
    assert (whole.start_seconds, whole.end_seconds) == (None, None)
    assert "record 2: start 9 and end 2 are no part" in loaded.notes[0]
    assert loaded.notes[1].startswith("17 of 20 tasks are not there: json/action_prediction.json")
    assert load_items("mvbench", folders["mvbench"], subset="action_antonym") == [antonym]
    with open_source(episode.video, fps=episode.fps) as source:
        assert source.info.duration_seconds == 1.0


def test_next_qa(folders: Folders) -> None:
    first, second = load_items("next-qa", folders["next-qa"])
    assert (first.id, first.answer, first.category, first.tags) == (
        "4010069381_6",
        "A",
        "CH",
        {"kind": "causal"},
    )
    assert (second.answer, second.options[4]) == ("E", "say no, thanks")
    assert first.video == folders["next-qa"] / "NExTVideo/1164/6233408665.mp4"


def test_streamingbench(folders: Folders) -> None:
    loaded = load_set("streamingbench", folders["streamingbench"])
    real, serve, points = loaded.items
    assert (real.id, real.answer, real.options[2]) == ("real_0", "C", "A radio.")
    assert (real.streaming, real.start_seconds, real.end_seconds) == (True, None, 91.0)
    assert serve.question == "Who serves?"
    assert (points.id, points.end_seconds) == ("sqa_1", 3782.0)
    # the right answer of the earlier question is told, its other options are not
    assert "At 00:00:36: Who serves? Right answer: Fan." in points.question
    assert points.question.endswith("The question now: What is his score?")
    assert "Wang" not in points.question
    assert loaded.notes[0].startswith("questions_proactive.json is left out")


def test_streamingbench_as_csv(tmp_path: Path, clip: Path) -> None:
    def row(name: str, task: str, question: str, answer: str) -> dict[str, Any]:
        asked = {"question_id": name, "task_type": task, "question": question, "time_stamp": "00:00:05"}
        more = {"frames_required": "single", "temporal_clue_type": "Prior"}
        return {**asked, "answer": answer, "options": ["A. one", "B. two"], **more}

    release = Release(
        {
            "StreamingBench/Real_Time_Visual_Understanding.csv": [
                row("Real-Time Visual Understanding_sample_1_2", "Counting", "How many?", "B")
            ],
            "StreamingBench/Contextual_Understanding.csv": [
                row("Contextual Understanding_sample_3_1", "Misleading Context Recognition", "What?", "A")
            ],
            "StreamingBench/Sequential_Question_Answering.csv": [
                row("Sequential Question Answering_sample_2_10", "SQA", "And then?", "B"),
                row("Sequential Question Answering_sample_4_1", "SQA", "Where?", "A"),
                row("Sequential Question Answering_sample_2_9", "SQA", "Who?", "A"),
            ],
        },
        (
            "data/real/sample_1/video.mp4",
            "Misleading Context Understanding/sample_3/video.mp4",
            "videos/sample_2_sqa.mp4",
            "Sequential Question Answering/sample_4/video.mp4",
        ),
    )
    release.write(tmp_path, clip)
    real, misleading, who, then, where = load_items("auto", tmp_path)
    assert real.id == "Real-Time Visual Understanding_sample_1_2"
    assert (real.options, real.answer, real.end_seconds) == (("one", "two"), "B", 5.0)
    assert misleading.tags["kind"] == "contextual"
    assert (who.question, where.question) == ("Who?", "Where?")
    assert "At 00:00:05: Who? Right answer: one" in then.question
    bad = {"StreamingBench/Omni_Source_Understanding.csv": [row("first", "Counting", "How many?", "B")]}
    Release(bad, ()).write(tmp_path, clip)
    with pytest.raises(InvalidValueError, match="'question_id' must be a text that ends in sample_VIDEO_QUE"):
        load_items("streamingbench", tmp_path, subset="omni")


def test_ovo_bench(folders: Folders) -> None:
    backward, none_yet, three, step, unclear = load_items("ovo-bench", folders["ovo-bench"])
    assert (backward.id, backward.answer, backward.options[2]) == ("0", "C", "eggplant")
    assert [item.end_seconds for item in (none_yet, three, step)] == [4.5, 9.0, 12.0]
    assert [item.answer for item in (none_yet, three, step, unclear)] == ["0", "3", "Yes", "No"]
    assert "jump over the rope" in three.question
    assert "pump up the tire" in step.question
    assert "What does she do with the car?" in unclear.question
    # cut videos where they are there, else the whole one, which end_seconds cuts
    assert [item.video.name for item in (three, unclear)] == ["7_1.mp4", "tt0048028.mp4"]
    assert all(item.streaming for item in (backward, none_yet, three, step, unclear))
    forward = load_items("ovo-bench", folders["ovo-bench"], subset="forward")
    assert {item.category for item in forward} == {"REC", "SSR", "CRR"}
    assert load_items("ovo-bench", folders["ovo-bench"], subset="SSR") == [step]


def test_vnbench_joins_the_tries_of_a_question(folders: Folders) -> None:
    items = load_items("vnbench", folders["vnbench"])
    assert [item.answer for item in items] == ["C", "D", "A", "B"]
    assert {item.options[item.letters.index(item.answer or "")] for item in items} == {"3"}
    assert {item.tags["group"] for item in items} == {"10_cnt_edit1"}
    assert [item.id for item in items] == [f"10_cnt_edit1_{number}" for number in range(4)]
    assert items[0].tags["kind"] == "counting"


def test_cg_bench_has_evidence(folders: Folders) -> None:
    item = load_items("cg-bench", folders["cg-bench"], subtitles=True)[0]
    assert (item.id, item.answer, item.evidence) == ("5", "C", ((12.0, 15.5), (80.0, 81.0)))
    assert "Good & bad" in item.question


def test_questions_grouped_by_video(folders: Folders) -> None:
    knife, who = load_items("conversations", folders["conversations"])
    assert (knife.id, knife.answer, knife.evidence) == ("v1_0", "B", ((5.0, 9.0),))
    assert (who.id, who.answer, who.evidence) == ("v1_1", "A", ())


@pytest.mark.parametrize("name", [name for name, one in BENCHMARKS.items() if one.any_file_name])
def test_the_table_may_have_another_name(name: str, tmp_path: Path, clip: Path) -> None:
    release = RELEASES[name]
    (other := tmp_path / "questions_of_mine.json").write_text(json.dumps(release.files[release.first_file]))
    rest = {file: contents for file, contents in release.files.items() if file != release.first_file}
    Release(rest, release.videos).write(tmp_path, clip)
    assert detect(tmp_path) == name
    assert load_items(name, tmp_path)
    other.write_text(json.dumps([{"id": 1}]))
    with pytest.raises(SourceNotFoundError, match=r"is not a folder of .* or a table with"):
        load_items(name, tmp_path)


def test_parts_of_single_files(tmp_path: Path, clip: Path, folders: Folders) -> None:
    record = RELEASES["next-qa"].files["val.csv"][0]
    Release({"nextqa/test.csv": [record]}, ("videos/4010069381.mp4",)).write(tmp_path, clip)
    (item,) = load_items("next-qa", tmp_path, subset="test")
    assert item.video.name == "4010069381.mp4"
    assert len(load_items("vnbench", folders["vnbench"], subset="cnt")) == 4
    with pytest.raises(InvalidValueError, match="no question of VNBench of subset 'ord'"):
        load_items("vnbench", folders["vnbench"], subset="ord")
    with pytest.raises(SourceNotFoundError, match="is not a folder of CG-Bench"):
        load_items("cg-bench", folders["cg-bench"], subset="full")


def test_names_of_videos_differ_in_case(tmp_path: Path, clip: Path) -> None:
    record = RELEASES["cg-bench"].files["cgbench_mini.json"][0]
    records = [{**record, "qid": name, "video_uid": name} for name in ("aBc", "abC", "v.1", "dir")]
    videos = ("videos/aBc.MP4", "videos/abC.mkv", "videos/v.1.mp4", "videos/dir.mp4", "videos/dir/0.mp4")
    Release({"cgbench.json": records}, videos).write(tmp_path, clip)
    found = [item.video.relative_to(tmp_path).as_posix() for item in load_items("cg-bench", tmp_path)]
    assert found == list(videos[:4]), "each its own file, and no folder of frames in its place"


def test_a_video_of_an_item_opens(folders: Folders) -> None:
    item = load_items("cg-bench", folders["cg-bench"])[0]
    with open_source(item.video) as source:
        assert source.info.num_frames == 3


def _parquet_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for pyarrow, which is optional: files hold their rows as JSON."""
    arrow, parquet = ModuleType("pyarrow"), ModuleType("pyarrow.parquet")
    vars(arrow)["ArrowException"] = type("ArrowException", (Exception,), {})

    def read_table(path: Path) -> SimpleNamespace:
        return SimpleNamespace(to_pylist=lambda: json.loads(path.read_text()))

    vars(parquet)["read_table"] = read_table
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


@pytest.mark.parametrize(
    ("name", "file", "row", "video", "expected"),
    [
        (
            "video-mme",
            "videomme/test-00000-of-00001.parquet",
            RELEASES["video-mme"].files["Video-MME.json"][0],
            "data/fFjv93ACGo8.mkv",
            ("001-1", ("Two.", "Three.", "A dozen.", "None."), "C"),
        ),
        (
            "egoschema",
            "Subset/test-00000-of-00001.parquet",
            {
                "question_idx": "17",
                "question": "What?",
                "video_idx": "uid",
                "option": ["A. x", "B. y", "C. z"],
                "answer": "2",
            },
            "videos/uid.mp4",
            ("17", ("x", "y", "z"), "C"),
        ),
        (
            "longvideobench",
            "validation-00000-of-00001.parquet",
            {
                "id": "v_0",
                "video_path": "v.mp4",
                "subtitle_path": "v.json",
                "starting_timestamp_for_subtitles": 0.0,
                "question": "What?",
                "option0": "x",
                "option1": "y",
                "option2": "N/A",
                "correct_choice": 1,
            },
            "videos/v.mp4",
            ("v_0", ("x", "y"), "B"),
        ),
        (
            "next-qa",
            "MC/test-00000-of-00001.parquet",
            RELEASES["next-qa"].files["val.csv"][1],
            "videos/4010069381.mp4",
            ("4010069381_7", ("greet", "dance", "swim", "fall", "say no, thanks"), "E"),
        ),
    ],
)
def test_parquet_forms(
    name: str,
    file: str,
    row: dict[str, Any],
    video: str,
    expected: tuple[Any, ...],
    tmp_path: Path,
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _parquet_from_json(monkeypatch)
    Release({file: [row]}, (video,)).write(tmp_path, clip)
    (item,) = load_items("auto", tmp_path)
    assert (item.id, item.options, item.answer) == expected
    assert item.video == tmp_path / video


def test_a_csv_has_its_options_written_out(tmp_path: Path, clip: Path) -> None:
    row = RELEASES["video-mme"].files["Video-MME.json"][0]
    Release({"Video-MME.csv": [row]}, ("data/fFjv93ACGo8.mp4",)).write(tmp_path, clip)
    (item,) = load_items("auto", tmp_path)
    assert item.options == ("Two.", "Three.", "A dozen.", "None.")
