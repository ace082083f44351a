"""``streamprune eval --suite stream``: what it asks, what it records, and that memories make a difference."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.embedded.evaluate.needles import Needles
from streamprune.embedded.evaluate.stream_questions import asked_about, needle_stream
from streamprune.pipelines.live import LiveStream
from streamprune.report.needles import ages_markdown, needles_markdown

runner = CliRunner()


def test_questions_are_of_every_kind_and_most_about_the_past() -> None:
    video = needle_stream(0, 1800)
    asked = asked_about(video, 1800, 100)
    assert len(asked) == 100
    assert [question.at_frame for question in asked] == sorted(question.at_frame for question in asked)
    assert asked[-1].at_frame == 1800
    kinds = Counter(question.type for question in asked)
    assert set(kinds) == {
        "before_needle", "color_main", "color_needle", "digit_color", "exist_needle", "shape_main",
        "where_needle",
    }  # fmt: skip
    assert max(kinds.values()) < 40
    assert 0.7 < Counter(question.age for question in asked)["past"] / 100 < 0.9
    rare = [event for event in video.events(0, 1800) if event.role != "main"]
    assert len({event.kind for event in rare}) == len(rare) == 14, "whatever is asked about is seen once"
    with pytest.raises(ValueError, match=r"questions: 100 frames of stream 0 answer \d+, not 500"):
        asked_about(needle_stream(0, 100), 100, 500)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, list[str]]:
    path = tmp_path_factory.mktemp("streams") / "needles.json"
    arguments = ["eval", "--suite", "stream", "--streams", "1", "--num-frames", "60", "--questions", "6"]
    arguments += [
        "--memory",
        "window",
        "--memory",
        "evidence-only",
        "--memory-bytes",
        "4MB",
        "--json",
        str(path),
    ]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return json.loads(path.read_text(encoding="utf-8")), path, arguments


def test_a_record_says_what_was_measured(measured: tuple[dict[str, Any], Path, list[str]]) -> None:
    record = measured[0]
    assert (record["frames"], record["questions"], record["context_tokens"]) == (60, 6, 576)
    assert [(row["memory"], row["memory_bytes"], row["count"]) for row in record["rows"]] == [
        ("window", 4_000_000, 6),
        ("evidence-only", None, 6),
    ]
    window = record["rows"][0]
    assert 0 < window["peak_bytes"] <= 4_000_000
    assert window["remembers_from_seconds"] == 60 - 16
    assert sum(entry["count"] for entry in window["age"].values()) == 6
    assert needles_markdown(record).splitlines()[0] == "| memory | 4 MB |"
    assert ages_markdown(record, 4_000_000).count("\n") == 4


def test_what_was_measured_is_not_measured_again(
    measured: tuple[dict[str, Any], Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, path, arguments = measured
    asked: list[tuple[str, int]] = []

    def measure(suite: Any, memory: str, memory_bytes: int) -> dict[str, Any]:
        asked.append((memory, memory_bytes))
        return {"accuracy": 0.5, "low": 0.4, "high": 0.6, "count": 6, "age": {}, "type": {}}

    monkeypatch.setattr("streamprune.embedded.evaluate.needles.Needles.measure", measure)
    done = runner.invoke(app, [*arguments, "--memory-bytes", "1KB"])
    assert done.exit_code == 0, done.output
    assert asked == [("window", 1000)]
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert rows[0] == record["rows"][0]
    assert [(row["memory"], row["memory_bytes"]) for row in rows] == [
        ("window", 4_000_000), ("window", 1000), ("evidence-only", None),
    ]  # fmt: skip
    other = runner.invoke(app, [*arguments, "--questions", "7"])
    assert other.exit_code == 2
    assert "holds a record with questions 6, not 7; remove it or name another" in " ".join(
        other.output.split()
    )


def test_every_answer_has_a_line_and_none_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jsonl"
    arguments = ["eval", "--suite", "needle", "--streams", "1", "--num-frames", "60", "--questions", "6"]
    arguments += ["--memory", "keep-all", "--memory", "window", "--memory", "blind", "--memory-bytes", "4MB"]
    arguments += ["--answers", str(path)]
    ask, asked = LiveStream.ask, list[str]()

    def stopping(live: LiveStream, question: str, **settings: Any) -> Any:
        if len(asked) == 9:
            raise KeyboardInterrupt
        asked.append(question)
        return ask(live, question, **settings)

    monkeypatch.setattr(LiveStream, "ask", stopping)
    assert runner.invoke(app, arguments).exit_code == 130
    begun = path.read_text(encoding="utf-8").splitlines()
    assert len(begun) == 9
    asked.clear()
    done = runner.invoke(app, [*arguments, "--json", str(tmp_path / "e.json")])
    assert done.exit_code == 0, done.output
    assert len(asked) == 12 - 9
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [json.dumps(line) for line in lines[:9]] == begun
    assert [line["memory"] for line in lines] == ["keep-all"] * 6 + ["window"] * 6 + ["blind"] * 6
    rows = {row["memory"]: row for row in json.loads((tmp_path / "e.json").read_text())["rows"]}
    assert rows["keep-all"]["loyalty"]["accuracy"] == 1
    whole = {line["id"]: line["text"] for line in lines if line["memory"] == "keep-all"}
    window = [line for line in lines if line["memory"] == "window"]
    same = sum(line["text"] == whole[line["id"]] for line in window)
    assert rows["window"]["loyalty"]["accuracy"] == pytest.approx(same / 6, abs=1e-4)
    assert rows["window"]["accuracy"] == pytest.approx(sum(line["strict"] for line in window) / 6, abs=1e-4)
    # whose wrong answers nobody has read
    assert "loyalty" not in rows["blind"]
    assert all((line["text"] is None) != line["strict"] for line in lines if line["memory"] == "blind")


def test_too_few_bytes_are_a_row_that_says_so(tmp_path: Path) -> None:
    arguments = ["eval", "--suite", "stream", "--streams", "1", "--num-frames", "60", "--questions", "2"]
    arguments += ["--memory", "window", "--memory-bytes", "1KB", "--json", str(tmp_path / "e.json")]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "e.json").read_text(encoding="utf-8"))["rows"]
    assert "memory_bytes=1,000 is too small" in row["refused"]
    assert "too little" in needles_markdown({"rows": [row]})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "streams"], "unknown suite 'streams'. Did you mean 'stream'"),
        (["--suite", "stream", "--memory", "windoww"], "unknown memory 'windoww'. Did you mean 'window'"),
        (["--suite", "stream", "--memory-bytes", "lots"], "memory_bytes must be bytes"),
        (["--suite", "stream", "--streams", "0"], "streams must be at least 1"),
        (["--suite", "stream", "--questions", "0"], "questions must be at least 1"),
        (["--suite", "stream", "--recipe", "fastvid"], "--recipe is not for the suite 'stream'"),
        (["--memory", "window"], "--memory is not for the suite 'embedded'"),
    ],
)
def test_bad_input_is_answered(arguments: list[str], said: str) -> None:
    done = runner.invoke(app, ["eval", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text("[1]", encoding="utf-8")
    done = runner.invoke(app, ["eval", "--suite", "stream", "--json", str(path)])
    assert done.exit_code == 2
    assert "is no record of streams" in " ".join(done.output.split())


def test_three_minutes_in_little_memory_are_worth_almost_all_of_them() -> None:
    suite = Needles(streams=2, frames=180, questions=40)
    ours, newest, whole = (
        suite.measure(memory, memory_bytes)
        for memory, memory_bytes in (("tiered", 6_000_000), ("window", 6_000_000), ("keep_all", 32_000_000))
    )
    # measured: 0.90, 0.50, 0.90; of what was long ago 0.83, 0.17, 0.83
    assert ours["peak_bytes"] <= 6_000_000 < 12_000_000 < whole["peak_bytes"]
    assert ours["accuracy"] >= newest["accuracy"] + 0.25
    assert ours["age"]["past"]["accuracy"] >= newest["age"]["past"]["accuracy"] + 0.4
    assert ours["accuracy"] >= whole["accuracy"] - 0.1
    assert ours["age"]["now"]["accuracy"] >= 0.9
    assert ours["remembers_from_seconds"] == 0


def test_slices_of_two_frames_are_shown_whole() -> None:
    suite = Needles(streams=1, frames=100, questions=4, model="embedded-qwen")
    assert suite.context_tokens == 8 * 36
    (exam,) = suite.exams
    assert exam.recorded.features(range(50)).shape == (50, 6, 6, 192)
    assert suite.evidence_only()["accuracy"] >= 0.75
    assert suite.blind()["count"] == 4
