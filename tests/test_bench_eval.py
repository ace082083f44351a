"""``eval``: what it records, and how it answers bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.registry import list_methods
from streamprune.report.retention import costs_markdown, groups_markdown, retention_markdown

runner = CliRunner()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("eval")
    arguments = [
        "eval",
        "--questions",
        "40",
        "--json",
        str(folder / "e.json"),
        "--plot",
        str(folder / "e.png"),
    ]
    arguments += ["--recipe", "stride", "--recipe", "pool", "--recipe", "oracle"]
    done = runner.invoke(app, [*arguments, "--keep-ratio", "0.25", "--keep-ratio", "0.05"])
    assert done.exit_code == 0, done.output
    return json.loads((folder / "e.json").read_text()), folder


def test_a_record_has_a_row_for_every_recipe_and_share(evaluated: tuple[dict[str, Any], Path]) -> None:
    record, folder = evaluated
    assert [(row["recipe"], row["keep_ratio"]) for row in record["rows"]] == [
        (recipe, ratio) for recipe in ("stride", "pool", "oracle") for ratio in (0.25, 0.05)
    ]
    assert record["tokens"] == 576
    assert record["full"]["tokens_kept"] == 576
    assert record["full"]["evidence_recall"] == 1.0
    assert {"date", "device", "command", "torch", "streamprune"} <= record.keys()
    assert (folder / "e.png").read_bytes().startswith(b"\x89PNG")


def test_figures_are_what_the_model_answers(evaluated: tuple[dict[str, Any], Path]) -> None:
    rows = {(row["recipe"], row["keep_ratio"]): row for row in evaluated[0]["rows"]}
    assert rows["oracle", 0.05]["accuracy"] > rows["stride", 0.05]["accuracy"] + 0.1
    assert rows["stride", 0.25]["tokens_kept"] == 144
    for row in rows.values():
        assert row["low"] <= row["accuracy"] <= row["high"]
        assert row["count"] == 40 == sum(group["count"] for group in row["groups"].values())
        assert row["retained"] == pytest.approx(row["accuracy"] / evaluated[0]["full"]["accuracy"], abs=1e-4)
    # an averaged token holds only a share of the evidence, the oracle's hold it whole
    assert rows["pool", 0.05]["evidence_recall"] < 0.2 < 0.9 < rows["oracle", 0.05]["evidence_recall"]


def test_tables_hold_the_record(evaluated: tuple[dict[str, Any], Path]) -> None:
    table = retention_markdown(evaluated[0]).splitlines()
    assert table[0] == "| recipe | 0.25 | 0.05 |"
    assert table[2].startswith("| stride | ")
    assert table[2].endswith(", 28 |")
    best = groups_markdown(evaluated[0], 0.05).splitlines()[2]
    assert best.startswith("| oracle | 29 |")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "--suite", "embeded"], "unknown suite 'embeded'. Did you mean 'embedded'"),
        (["eval", "--recipe", "fastvidd"], "unknown recipe 'fastvidd'"),
        (["eval", "--keep-ratio", "0"], "keep_ratio must be in (0, 1]"),
        (["eval", "--questions", "0"], "questions must be"),
    ],
)
def test_bad_input_is_answered(arguments: list[str], said: str) -> None:
    done = runner.invoke(app, arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("asked")
    recipe = folder / "own.toml"
    recipe.write_text(
        'keep_ratio = 0.5\n[frames]\nmethod = "uniform"\nnum_frames = 8\n[pre_llm]\nmethod = "stride"\n'
    )
    names = ["pre_llm:stride", "stride+knorm", "fastv", "knorm", "encoder:tome", str(recipe)]
    arguments = [part for name in names for part in ("--recipe", name)]
    arguments += ["--questions", "10", "--keep-ratio", "1.0", "--json", str(folder / "e.json")]
    done = runner.invoke(app, ["eval", *arguments])
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "e.json").read_text())
    assert costs_markdown(record).count("\n") == 2 + len(names)
    return {Path(row["recipe"]).stem: row for row in record["rows"]}


def test_recipes_of_every_stage_are_asked(asked: dict[str, dict[str, Any]]) -> None:
    packed = asked.pop("pre_llm:stride")
    assert "kv_bytes" not in packed
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


def test_a_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = runner.invoke(
        app,
        [
            "eval",
            "--recipe",
            "stride",
            "--questions",
            "10",
            "--keep-ratio",
            "0.1",
            "--json",
            str(tmp_path / "file/e.json"),
        ],
    )
    assert done.exit_code == 1
    assert "cannot write" in done.output


def test_every_method_of_a_stage_is_measured_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[str, float | None]] = []

    def measure(suite: Any, recipe: Any, keep_ratio: float | None = 1.0) -> dict[str, Any]:
        measured.append((recipe.name, keep_ratio))
        entry = {"accuracy": 1.0, "low": 1.0, "high": 1.0, "count": 10}
        return {**entry, "tokens_kept": 1.0, "groups": {}, "types": {}}

    monkeypatch.setattr("streamprune.embedded.evaluate.suite.Suite.measure", measure)
    done = runner.invoke(app, ["eval", "--stage", "kv", "--keep-ratio", "0.2", "--questions", "10"])
    assert done.exit_code == 0, done.output
    assert measured[0] == ("none", 1.0)
    stores = {info.name for info in list_methods("kv") if info.stacks}
    expected = [(info.name, None if info.name in stores else 0.2) for info in list_methods("kv")]
    assert measured[1:] == expected
    refused = runner.invoke(app, ["eval", "--stage", "kb"])
    assert refused.exit_code == 2
    assert "unknown stage to measure 'kb'. Did you mean 'kv'" in " ".join(refused.output.split())
