"""``streamprune eval``: what it records, resumes and prints, and how it answers bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.cli.evaluate_sets import WORLDS
from streamprune.embedded.evaluate.worlds import SUITES, world
from streamprune.errors import InvalidValueError
from streamprune.pipelines.evaluation import Evaluation
from streamprune.pipelines.evaluation_contenders import KEY, Contender, read_contenders
from streamprune.pipelines.evaluation_outcome import Unwritten
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.registry import list_methods
from streamprune.report.retention import costs_markdown, groups_markdown, retention_markdown
from tests.benchmarks.releases import RELEASES
from tests.readers.media import write_video

runner = CliRunner()


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return load("embedded")


def run(*arguments: object) -> str:
    """What ``streamprune eval`` prints, all of it, in one line."""
    done = runner.invoke(app, ["eval", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("eval")
    named = [part for name in ("stride", "pool", "oracle") for part in ("--recipe", name)]
    files = ["--json", folder / "e.json", "--plot", folder / "e.png", "--answers", folder / "a.jsonl"]
    run("--questions", "20", *named, "--keep-ratio", "0.25", "--keep-ratio", "0.05", *files)
    return json.loads((folder / "e.json").read_text()), folder


def own_rows(record: Mapping[str, Any]) -> dict[tuple[str, float], dict[str, Any]]:
    return {(row["recipe"], row["keep_ratio"]): row for row in record["rows"] if "equal_to" not in row}


def test_a_record_has_a_row_for_every_recipe_and_share(evaluated: tuple[dict[str, Any], Path]) -> None:
    record, folder = evaluated
    assert own_rows(record).keys() == {
        (recipe, ratio) for recipe in ("stride", "pool", "oracle") for ratio in (0.25, 0.05)
    }
    assert (record["tokens"], record["frames"], record["questions"]) == (576, 16, 20)
    assert record["full"]["tokens_kept"] == 576
    assert record["full"]["evidence_recall"] == record["full"]["loyalty"]["accuracy"] == 1.0
    assert {"date", "device", "command", "torch", "streamprune"} <= record.keys()
    assert 0 <= record["overhead_share"] < 1
    assert "lower resolution" in record["notes"]
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_to_be_beaten_is_there_at_as_many_tokens(evaluated: tuple[dict[str, Any], Path]) -> None:
    record, _ = evaluated
    beside = [row for row in record["rows"] if "equal_to" in row]
    # stride and pool are asked as recipes already; pool keeps 16 of the 28 tokens that 0.05 allows
    assert [(row["recipe"], row["keep_ratio"], row["equal_to"]) for row in beside] == [
        ("random", 0.25, ["stride", "pool", "oracle"]),
        ("fewer frames", 0.25, ["stride", "pool", "oracle"]),
        ("random", 0.05, ["stride", "oracle"]),
        ("pool", 0.05, ["stride", "oracle"]),
        ("fewer frames", 0.05, ["stride", "oracle"]),
        ("random", 0.05, ["pool"]),
        ("stride", 0.05, ["pool"]),
        ("fewer frames", 0.05, ["pool"]),
    ]
    mine = own_rows(record)
    for row in beside:
        for name in row["equal_to"]:
            assert abs(row["tokens_kept"] - mine[name, row["keep_ratio"]]["tokens_kept"]) <= 36
        assert row["count"] == 20


def test_figures_are_what_the_model_answers(evaluated: tuple[dict[str, Any], Path]) -> None:
    record, folder = evaluated
    rows = own_rows(record)
    assert rows["oracle", 0.05]["accuracy"] > rows["stride", 0.05]["accuracy"] + 0.1
    assert rows["stride", 0.25]["tokens_kept"] == 144
    for row in rows.values():
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["lenient"]["accuracy"] >= row["accuracy"]
        assert row["count"] == 20 == sum(group["count"] for group in row["groups"].values())
        assert row["count"] == sum(entry["count"] for entry in row["categories"].values())
        assert row["retained"] == pytest.approx(row["accuracy"] / record["full"]["accuracy"], abs=1e-4)
        assert row["kv_bytes"] < 0.5 > row["prefill_flops"]
    # an averaged token holds only a share of the evidence, the oracle's hold it whole
    assert rows["pool", 0.05]["evidence_recall"] < 0.2 < 0.9 < rows["oracle", 0.05]["evidence_recall"]
    lines = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
    stride = [line for line in lines if (line["contender"], line["keep_ratio"]) == ("stride", 0.05)]
    assert sum(line["strict"] for line in stride) == round(20 * rows["stride", 0.05]["accuracy"])
    full = {line["id"]: line["text"] for line in lines if line["contender"] == "full"}
    same = sum(line["text"] == full[line["id"]] for line in stride)
    assert rows["stride", 0.05]["loyalty"]["accuracy"] == same / 20
    assert all(line["text"] and line["category"] for line in lines)


def test_tables_hold_the_record(evaluated: tuple[dict[str, Any], Path]) -> None:
    table = retention_markdown(evaluated[0]).splitlines()
    assert table[0] == "| recipe | 0.25 | 0.05 |"
    assert table[2].startswith("| stride | ")
    best = groups_markdown(evaluated[0], 0.05).splitlines()[2]
    assert best.startswith("| oracle | 28 |")


def test_what_was_asked_is_not_asked_again_and_another_run_is_refused(
    evaluated: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, folder = evaluated
    asked: list[str] = []
    monkeypatch.setattr("streamprune.embedded.evaluate.worlds.answered", lambda *args: asked.append("?"))
    files = ["--json", folder / "again.json", "--answers", folder / "a.jsonl"]
    named = ["--recipe", "stride", "--recipe", "pool"]
    said = run("--questions", "20", *named, "--keep-ratio", "0.25", *files)
    assert asked == []
    assert "neither videos nor models" not in said
    again = json.loads((folder / "again.json").read_text())
    assert again["full"] == record["full"]
    assert own_rows(again)["stride", 0.25] == own_rows(record)["stride", 0.25]
    other = runner.invoke(app, ["eval", "--questions", "30", "--answers", str(folder / "a.jsonl")])
    assert other.exit_code == 2
    assert "was written by another run" in " ".join(other.output.split())


def test_all_questions_at_once_are_answered_as_one_by_one(
    vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = world("embedded", 8, None, vlm.family)
    contenders = [Contender.full(), *read_contenders(["stride"], [0.1])]
    evaluation = Evaluation(vlm, questions, contenders, baselines=False)
    at_once = evaluation.run(Unwritten(KEY)).lines
    monkeypatch.setattr("streamprune.embedded.evaluate.worlds.World._is_packed", lambda *args: False)
    assert evaluation.run(Unwritten(KEY)).lines == at_once


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("asked")
    recipe = folder / "own.toml"
    recipe.write_text(
        'keep_ratio = 0.5\n[frames]\nmethod = "uniform"\nnum_frames = 8\n[pre_llm]\nmethod = "stride"\n'
    )
    names = ["pre_llm:stride", "stride+knorm", "fastv", "knorm", "encoder:tome", str(recipe)]
    arguments = [part for name in names for part in ("--recipe", name)]
    run("--questions", "10", "--keep-ratio", "1.0", "--no-baselines", *arguments, "--json", folder / "e.json")
    record = json.loads((folder / "e.json").read_text())
    assert list(folder.glob(".e.json*.jsonl")) == []
    assert costs_markdown(record).count("\n") == 2 + len(names)
    return {Path(row["recipe"]).stem: row for row in record["rows"]}


def test_recipes_of_every_stage_are_asked(asked: dict[str, dict[str, Any]]) -> None:
    packed = asked["pre_llm:stride"]
    for name in ("stride+knorm", "fastv", "knorm"):
        row = asked[name]
        # with everything kept, asking one by one is right as often as all questions in one pass
        assert (row["accuracy"], row["count"]) == (packed["accuracy"], 10)
        assert (row["prefill_flops"], row["kv_bytes"], row["tokens_kept"]) == (1.0, 1.0, 576)
        assert "evidence_recall" not in row


def test_a_budget_of_its_own_is_measured_once(asked: dict[str, dict[str, Any]]) -> None:
    own, encoder = asked["own"], asked["encoder:tome"]
    assert (own["keep_ratio"], own["tokens_kept"]) == (0.5, 144)
    assert encoder["keep_ratio"] == 1.0
    assert own["kv_bytes"] < 0.6 < encoder["kv_bytes"]


@pytest.mark.parametrize("suite", ["long", "grounding", "reading", "counting", "motion"])
def test_suites_ask_what_they_are_about(vlm: VideoLLM, suite: str) -> None:
    assert tuple(SUITES) == WORLDS
    made = world(suite, 8, None, vlm.family)
    assert len(made.items) == 8
    assert made.frames == (64 if suite == "long" else 16)
    if suite != "long":
        assert {item.category for item in made.items} <= set(SUITES[suite].types)
    assert "one" in {item.answer for item in world("counting", 8, None, vlm.family).items}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Video-MME as it is released, with two videos of two seconds."""
    folder = tmp_path_factory.mktemp("release")
    film = write_video(folder / "film.mp4", numbers=range(50))
    return RELEASES["video-mme"].write(folder / "set", film)


def test_a_published_set_is_asked_from_its_folder(release: Path, tmp_path: Path) -> None:
    more = ["--subtitles", "--num-frames", "8", "--max-new-tokens", "3"]
    files = ["--answers", tmp_path / "a.jsonl", "--json", tmp_path / "e.json"]
    said = run("--suite", "videomme", "--folder", release, "--recipe", "fastvid", *more, *files)
    assert "2 questions of video-mme, embedded" in said
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [(line["id"], line["contender"]) for line in lines[:6]] == [
        ("001-1", name) for name in ("full", "fastvid", "random", "stride", "pool", "fewer frames")
    ]
    record = json.loads((tmp_path / "e.json").read_text())
    assert (record["eval"], record["frames"], record["full"]["count"]) == ("video-mme", 8, 2)
    assert record["full"]["categories"].keys() == {"Counting Problem"}
    # a small model that has never seen a letter to choose
    assert record["full"]["unparsed"] == sum(
        not line["parsed"] for line in lines if line["contender"] == "full"
    )
    assert record["left_out"] == ["1 videos have no file in subtitle/; asked without"]
    fewer = runner.invoke(app, ["eval", "--suite", "video-mme", "--folder", str(release), "--limit", "1"])
    assert "1 question of video-mme" in fewer.output


def test_missing_videos_are_left_out_when_that_is_allowed(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "set")
    (tmp_path / "set/data/N1cdUjctpG8.MP4").unlink()
    arguments = ["--suite", "video-mme", "--folder", str(tmp_path / "set")]
    refused = runner.invoke(app, ["eval", *arguments])
    assert refused.exit_code == 1
    assert "1 of 2 videos are missing" in refused.output
    (tmp_path / "set/data/fFjv93ACGo8.mp4").write_bytes(b"not a film")
    nothing = run(*arguments, "--allow-missing")
    assert "0 questions of video-mme" in nothing
    assert "not read, 1 question apart" in nothing
    gone = tmp_path / "set/data/N1cdUjctpG8.mp4"
    assert f"left out, 1 question about videos that are not there: {gone}" in nothing


def test_own_questions_without_answers_tell_of_loyalty_alone(release: Path, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs.jsonl"
    video = str(release / "data/fFjv93ACGo8.mp4")
    asked = [{"video": video, "question": "what color is it?"}, {"video": video, "question": "where is it?"}]
    jobs.write_text("".join(json.dumps(one) + "\n" for one in asked))
    said = run(
        "--suite", "own", "--questions", jobs, "--recipe", "stride", "--num-frames", "4",
        "--json", tmp_path / "e.json",
    )  # fmt: skip
    assert "no answers are known: loyalty to the full model is all that can be said" in said
    record = json.loads((tmp_path / "e.json").read_text())
    for row in (record["full"], *record["rows"]):
        assert "accuracy" not in row
        assert row["loyalty"]["count"] == row["answered"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--suite embeded", 2, "unknown suite 'embeded'. Did you mean 'embedded'"),
        ("--suite vidomme", 2, "unknown suite 'vidomme'. Did you mean 'video-mme'"),
        ("--recipe fastvidd", 2, "unknown recipe 'fastvidd'"),
        ("--keep-ratio 0", 2, "keep_ratio must be in (0, 1]"),
        ("--suite motion --keep-ratio 1.2", 2, "keep_ratio must be in (0, 1]"),
        ("--questions 0", 2, "questions must be"),
        ("--questions jobs.jsonl", 2, "a file of questions is for --suite own"),
        ("--limit 0", 2, "limit must be"),
        ("--stage kb", 2, "unknown stage to measure 'kb'. Did you mean 'kv'"),
        ("--folder x", 2, "--folder is not for the suite 'embedded'"),
        ("--suite needle --limit 3", 2, "--limit is not for the suite 'needle'"),
        ("--suite own", 2, "the suite 'own' needs --questions FILE"),
        ("--suite own --questions none.jsonl", 1, "no such file of jobs"),
        ("--suite own --questions {jobs}", 2, "id '1' is that of line 1, too"),
        ("--suite videomme", 2, "needs --folder DIR"),
        ("--suite mlvu --folder nowhere", 1, "nowhere is no folder"),
        ("--suite mvbench --folder {set}", 1, "is not a folder of MVBench"),
        ("--suite video-mme --folder {columns}", 2, "'answer'"),
        ("--suite video-mme --folder {set} --subset huge", 2, "huge"),
        ("--suite video-mme --folder {set} --recipe oracle", 2, "the oracle knows made-up clips"),
        ("--suite mvbench --folder {set} --questions 3", 2, "--questions is not for the suite 'mvbench'"),
        ("--json {file}/e.json", 1, "cannot write"),
        ("--answers {file}/a.jsonl", 1, "cannot write"),
        ("--plot {folder}", 1, "is a folder"),
        ("--suite stream --answers {file}/a.jsonl", 1, "cannot write"),
    ],
)
def test_bad_input_is_answered_before_a_model_is_loaded(
    arguments: str, code: int, said: str, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamprune.models.loading.load_model", pytest.fail)
    (tmp_path / "file").write_text("")
    (tmp_path / "jobs").write_text(2 * '{"id": 1, "video": "a.mp4", "question": "?"}\n')
    film = release / "data/fFjv93ACGo8.mp4"
    columns = RELEASES["video-mme"].with_column("answer", ...).write(tmp_path / "columns", film)
    given = arguments.format(
        set=release, columns=columns, folder=tmp_path, file=tmp_path / "file", jobs=tmp_path / "jobs"
    )
    done = runner.invoke(app, ["eval", *given.split()])
    assert (done.exit_code, said in " ".join(done.output.split())) == (code, True), done.output


def test_every_method_of_a_stage_is_measured_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, float | None]] = []

    def noted(evaluation: Evaluation, lines: Any) -> Any:
        measured.extend((one.name, one.keep_ratio) for one in evaluation.contenders)
        raise InvalidValueError("enough")

    monkeypatch.setattr(Evaluation, "run", noted)
    done = runner.invoke(app, ["eval", "--stage", "kv", "--keep-ratio", "0.2", "--questions", "10"])
    assert "enough" in done.output
    assert measured[0] == ("full", None)
    stores = {info.name for info in list_methods("kv") if info.stacks}
    expected = [(info.name, None if info.name in stores else 0.2) for info in list_methods("kv")]
    assert measured[1:] == expected
