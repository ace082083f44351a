"""``streamprune tune`` on the embedded model: what it finds and writes, and how it answers bad input."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import streamprune as sp
from streamprune.cli import app
from streamprune.errors import InvalidValueError
from streamprune.models.checkpoint_files import embedded_folder
from streamprune.pipelines.jobs import JobLine, read_jobs
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.pipelines.tuning import Candidate, Targets, list_candidates, loyalty_jobs, tune
from streamprune.pipelines.tuning_candidates import KEEP_RATIOS, RECIPES, default_candidates, ladders
from streamprune.recipe import Recipe
from streamprune.report.pareto import pareto_front
from tests.test_cli import failed_with, run

CLIPS = Path(__file__).resolve().parents[1] / "demos" / "clips"
NAME = "square_parade"
FEW = ("--recipe", "stride", "--recipe", "streamprune", "--keep-ratio", "0.5", "--keep-ratio", "0.05")


@pytest.fixture(scope="module")
def vlm() -> VideoLLM:
    return load("embedded")


def write_jobs(path: Path) -> Path:
    """The questions about a shipped clip, with their answers."""
    lines = [
        {"video": str(CLIPS / f"{NAME}.mp4"), "question": one["question"], "answer": one["answer"]}
        for one in json.loads((CLIPS / f"{NAME}.json").read_text())["questions"]
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """The folder of one run, its record and what it printed."""
    folder = tmp_path_factory.mktemp("tune")
    jobs = write_jobs(folder / "jobs.jsonl")
    written = ("-o", folder / "recipe.toml", "--json", folder / "tune.json", "--plot", folder / "tune.png")
    result = run("tune", "--questions", jobs, "--max-loss", "60", *FEW, "--budget", "0.8", *written)
    assert result.exit_code == 0, result.output
    return folder, json.loads((folder / "tune.json").read_text()), result.output


def test_the_table_shows_the_points_that_none_beats(tuned: tuple[Path, dict[str, Any], str]) -> None:
    folder, record, said = tuned
    assert "Loss of accuracy against time and memory, 4 questions" in said
    assert "loss at most 60 points; of these the earliest first token" in said
    assert record["met"]
    assert record["full"]["tokens_kept"] == 576
    assert record["answers"] <= 0.8 * record["exhaustive"] == pytest.approx(0.8 * 5 * 4)
    (chosen,) = [row for row in record["rows"] if row["chosen"]]
    assert chosen["questions"] == 4
    assert chosen["loss_low"] <= chosen["loss"] <= 60
    assert f"found: {chosen['recipe']} keep {chosen['keep']}" in said
    assert chosen["memory_bytes"] < record["full"]["memory_bytes"]
    for row in record["rows"]:
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
        assert row["ttft_low_ms"] <= row["ttft_ms"] <= row["ttft_high_ms"]
    assert (folder / "tune.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.iterdir()) == [
        "jobs.jsonl", "recipe.toml", "tune.json", "tune.png"
    ]  # fmt: skip


def test_the_recipe_it_writes_is_taken_by_every_command(
    tuned: tuple[Path, dict[str, Any], str], vlm: VideoLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record, _ = tuned
    recipe = folder / "recipe.toml"
    (chosen,) = [row for row in record["rows"] if row["chosen"]]
    asked = run("ask", CLIPS / "square_parade.mp4", "which shape is red?", "--recipe", recipe, "--json")
    assert asked.exit_code == 0, asked.output
    (answer,) = json.loads(asked.stdout)["answers"][0]["answers"]
    assert answer["stats"]["tokens_kept"] == pytest.approx(chosen["tokens_kept"], abs=1)
    assert answer["stats"]["kv_bytes"] <= chosen["memory_bytes"]
    measured = run("eval", "--questions", "10", "--recipe", recipe)
    assert measured.exit_code == 0, measured.output
    monkeypatch.syspath_prepend(str(CLIPS.parent))
    inputs = importlib.import_module("accelerate_stock").stock_inputs(embedded_folder())
    with sp.accelerate(vlm.family.model, recipe):
        out = vlm.family.model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    held = out.past_key_values.layers[0].keys.shape[2]
    assert held == out.sequences.shape[1] - 1 - 576 + chosen["tokens_kept"]


def test_a_search_that_was_killed_goes_on_and_asks_nothing_twice(vlm: VideoLLM, tmp_path: Path) -> None:
    jobs = read_jobs(write_jobs(tmp_path / "jobs.jsonl"))
    compared = list_candidates(["stride"], [0.5, 0.1])
    targets = Targets(memory_bytes=400_000)

    def go(journal: Path, stop_at: int | None = None) -> Any:
        def watch(stage: str, done: int, total: int) -> None:
            if stop_at is not None and done >= stop_at:
                raise KeyboardInterrupt

        return tune(vlm, jobs, compared, targets=targets, budget=1, journal=journal, progress=watch)

    whole = go(tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "killed.jsonl", stop_at=6)
    before = (tmp_path / "killed.jsonl").read_text()
    with (tmp_path / "killed.jsonl").open("a") as file:
        file.write('{"candidate": "str')  # a line that the kill tore
    resumed = go(tmp_path / "killed.jsonl")
    after = (tmp_path / "killed.jsonl").read_text()
    assert after.startswith(before)
    assert resumed.asked < whole.asked
    assert (resumed.chosen, resumed.answers) == (whole.chosen, whole.answers)

    def found(path: Path) -> dict[tuple[str, str], float]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return {(row["candidate"], row["question"]): row.get("loss", row.get("right")) for row in rows}

    assert len(after.splitlines()) == len(found(tmp_path / "killed.jsonl"))
    assert found(tmp_path / "killed.jsonl") == found(tmp_path / "whole.jsonl")
    # another target costs nothing that is known already
    again = tune(
        vlm, jobs, compared, targets=Targets(max_loss=90), budget=1, journal=tmp_path / "whole.jsonl"
    )
    assert again.asked < whole.asked / 2
    with pytest.raises(InvalidValueError, match="was written by another run"):
        tune(vlm, jobs[:2], compared, targets=targets, budget=1, journal=tmp_path / "whole.jsonl")


def test_without_answers_loyalty_counts(vlm: VideoLLM) -> None:
    jobs = loyalty_jobs([CLIPS / "square_parade.mp4"], ("which shape is red?", "how many scenes are there?"))
    compared = [Candidate(Recipe.named("none")), *list_candidates(["stride"], [0.02])]
    found = tune(vlm, jobs, compared, targets=Targets(max_loss=90), budget=1)
    assert (found.scored, found.accuracy, found.questions) == (0, None, 2)
    same, little = (found.point(one) for one in compared)
    assert same.loss.value == pytest.approx(0, abs=0.01)
    assert same.agreement == 1
    assert little.loss.value > 5
    assert little.loss.low >= 0


def test_numbers_of_frames_are_compared_and_written(tmp_path: Path) -> None:
    result = run(
        "tune", CLIPS / "hidden_digit.mp4", "which number is shown?", "--recipe", "stride", "--keep-ratio",
        "0.5", "--num-frames", "4", "--num-frames", "8", "--memory-bytes", "200kB", "--budget", "1",
        "-o", tmp_path / "r.toml",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "keep 0.5 with 4 frames" in result.output.replace("\n", " ")
    recipe = Recipe.from_file(tmp_path / "r.toml")
    assert dict(recipe.stages["frames"].options) == {"num_frames": 4}
    assert recipe.budget.keep_ratio == 0.5


def test_candidates_are_recipes_at_shares(vlm: VideoLLM, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "own"\nkeep_tokens = 30\n[pre_llm]\nmethod = "stride"\n')
    found = list_candidates(["stride", tmp_path / "own.toml", "kivi"], [0.1, 0.5], [8, 4])
    assert [(one.name, one.keep, one.num_frames) for one in found] == [
        (name, keep, frames)
        for frames in (8, 4)
        for name, keep in (("stride", "0.5"), ("stride", "0.1"), ("own", "30 tokens"), ("kivi", ""))
    ]
    assert [ladder.members for ladder in ladders(found)] == [(1, 0), (2,), (3,), (5, 4), (6,), (7,)]
    assert ladders(found)[0].shares == (0.1, 0.5)
    usual = default_candidates(vlm.family)
    assert len(usual) == len(RECIPES) * len(KEEP_RATIOS)
    # without its pooling head the model has no saliency to give
    bare = [one for one in usual if one.name in ("divprune", "stride", "vidcom2")]
    assert default_candidates(vlm.family, bare) == bare


def test_the_front_leaves_out_what_another_beats() -> None:
    def row(loss: float, ttft: float, memory: int, questions: int = 16) -> dict[str, Any]:
        return {"loss": loss, "ttft_ms": ttft, "memory_bytes": memory, "questions": questions}

    best, cheap, beaten, unsure, unknown = (
        row(0, 10, 100), row(5, 5, 50), row(6, 10, 100), row(0, 9, 90, 8), row(0, 1, 1, 1)
    )  # fmt: skip
    assert pareto_front([cheap, beaten, best, unsure, unknown]) == [best, unsure, cheap]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("{clip} --recipe stride", 2, ("needs a target", "--max-loss", "--ttft-ms", "--memory-bytes")),
        ("{clip} --max-loss 101", 2, ("max_loss must be in [0, 100]", "101")),
        ("{clip} --max-loss -1", 2, ("max_loss must be in [0, 100]", "-1")),
        ("{clip} --max-loss nan", 2, ("max_loss must be in [0, 100]", "nan")),
        ("{clip} --ttft-ms 0", 2, ("ttft_ms must be above 0",)),
        ("{clip} --memory-bytes lots", 2, ("memory_bytes", "lots")),
        ("{clip} --memory-bytes 0", 2, ("memory_bytes",)),
        ("{clip} --max-loss 5 --budget 0", 2, ("budget must be in (0, 1]",)),
        ("{clip} --max-loss 5 --budget 0.01 -o {folder}/r.toml", 2, ("budget must be at least", "--budget")),
        ("{clip} --max-loss 5 --max-new-tokens 0", 2, ("max_new_tokens must be at least 1",)),
        ("{clip} --max-loss 5 --recipe fastvidd", 2, ("fastvidd", "Did you mean 'fastvid'")),
        ("{clip} --max-loss 5 --recipe stride --recipe stride", 2, ("is there twice",)),
        ("{clip} --max-loss 5 --keep-ratio 0", 2, ("keep_ratio must be in (0, 1]",)),
        ("{clip} --max-loss 5 --keep-ratio 1.5", 2, ("keep_ratio must be in (0, 1]", "1.5")),
        ("{clip} --max-loss 5 --num-frames 0", 2, ("num_frames must be at least 1",)),
        ("{clip} --max-loss 5 -o {folder}/recipe.txt", 2, ("--output must end in .toml",)),
        ("{clip} --max-loss 5 -o {folder}", 1, ("cannot write", "folder")),
        ("{clip} --max-loss 5 --json {clip}/tune.json", 1, ("cannot write",)),
        ("{clip} --max-loss 5 --journal {clip}/j.jsonl", 1, ("cannot write",)),
        ("--max-loss 5", 2, ("no videos were given",)),
        ("nowhere.mp4 --max-loss 5", 1, ("nowhere.mp4",)),
        ("{clip} --questions {jobs} --max-loss 5", 2, ("--questions names the videos",)),
        ("--questions {jobs} --max-loss 5", 2, ("line 2", "has no 'question'")),
        ("--questions {folder}/none.jsonl --max-loss 5", 1, ("no such file of jobs",)),
        ("{clip} --max-loss 5 --model nowhere", 1, ("nowhere",)),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(
    arguments: str, code: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "jobs.jsonl").write_text('{"video": "a.mp4", "question": "?"}\n{"video": "a.mp4"}\n')
    names = {"clip": CLIPS / "hidden_digit.mp4", "folder": tmp_path, "jobs": tmp_path / "jobs.jsonl"}
    failed_with(run("tune", *arguments.format(**names).split()), code, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.jsonl"]


def test_a_question_before_any_video_is_refused() -> None:
    failed_with(run("tune", "which shape is red?", "--max-loss", "5"), 2, "has no video before it")


def test_what_cannot_be_met_says_what_was_best_and_writes_nothing(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    asked = ("tune", CLIPS / "hidden_digit.mp4", "which number is shown?", *FEW[:2], "--keep-ratio", "0.1")
    missed = ("--memory-bytes", "1kB", "--ttft-ms", "0.01", "-o", recipe)
    result = CliRunner().invoke(app, [str(argument) for argument in (*asked, *missed)])
    words = ("nothing meets the targets", "Nearest: stride keep 0.1", "The least memory", "--num-frames")
    failed_with(result, 1, *words, "was not written")
    assert list(tmp_path.iterdir()) == []
    failed_with(run(*asked, *missed, "--nearest"), 1, "nothing meets the targets")
    assert Recipe.from_file(recipe).budget.keep_ratio == 0.1


def test_candidates_that_read_the_question_to_choose_frames_are_refused(vlm: VideoLLM) -> None:
    jobs = [JobLine(id="1", video=CLIPS / "hidden_digit.mp4", question="?")]
    recipe = Recipe.from_toml('[frames]\nmethod = "quota"\n')
    with pytest.raises(InvalidValueError, match="chooses frames by the question"):
        tune(vlm, jobs, [Candidate(recipe)], targets=Targets(max_loss=1))
    with pytest.raises(InvalidValueError, match="at least one candidate"):
        tune(vlm, jobs, [], targets=Targets(max_loss=1))
    with pytest.raises(InvalidValueError, match="different ids, got '1' twice"):
        tune(vlm, jobs * 2, targets=Targets(max_loss=1))
    with pytest.raises(InvalidValueError, match="at least one question"):
        tune(vlm, [], targets=Targets(max_loss=1))
