"""What the README says about methods is what the registry says."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest

from streamprune.catalog.info import Stage
from streamprune.registry import list_methods
from streamprune.report.tables import methods_markdown

README = Path(__file__).resolve().parents[1] / "README.md"


def test_method_table_is_the_registry() -> None:
    found = re.search(r"<!-- methods -->\n(.*?)<!-- /methods -->", README.read_text(encoding="utf-8"), re.S)
    assert found is not None, "the README has lost its <!-- methods --> markers"
    built_in = [row for row in list_methods() if isinstance(row.target, str)]
    assert found[1] == methods_markdown(built_in), "paste the output of: streamprune methods --markdown"


def test_the_tables_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(README.parent / "demos"))
    written = importlib.import_module("write_results")
    again = "run: make results"
    assert written.PAGE.read_text(encoding="utf-8") == written.page(), again
    assert README.read_text(encoding="utf-8") == written.readme(README.read_text(encoding="utf-8")), again


def test_the_plots_are_those_of_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(README.parent / "demos"))
    drawn = importlib.import_module("draw_results")
    for name in drawn.PLOTS:
        assert drawn.shown_by(drawn.picture(name)) == drawn.said_of(name), f"{name}: run: make results"


def test_every_method_was_measured() -> None:
    results = README.parent / "demos" / "results"
    rows = json.loads((results / "reducer_losses.json").read_text(encoding="utf-8"))["rows"]
    speeds = json.loads((results / "reducer_speed.json").read_text(encoding="utf-8"))["rows"]
    names = {row.name for row in list_methods("pre_llm") if isinstance(row.target, str)}
    for ratio in (0.5, 0.25, 0.1, 0.05):
        measured = {row["recipe"] for row in rows if row["keep_ratio"] == ratio}
        assert measured == names - {"none"} | {"oracle"}
    assert {row["method"] for row in speeds} == names
    best = {row["recipe"]: row for row in rows if row["keep_ratio"] == 0.1}
    assert best["streamprune"]["retained"] >= 0.97, "what the README says of our own method"


@pytest.mark.parametrize(
    ("stage", "record"), [("in_llm", "in_llm_losses"), ("kv", "kv_losses"), ("kv", "kv_losses_qwen")]
)
def test_every_method_inside_the_language_model_was_measured(stage: Stage, record: str) -> None:
    results = README.parent / "demos" / "results"
    rows = json.loads((results / f"{record}.json").read_text(encoding="utf-8"))["rows"]
    assert {row["recipe"] for row in rows} == {
        row.name for row in list_methods(stage) if isinstance(row.target, str)
    }


def test_every_memory_was_measured() -> None:
    results = README.parent / "demos" / "results"
    rows = json.loads((results / "stream_needles.json").read_text(encoding="utf-8"))["rows"]
    measured = {row["memory"] for row in rows if row["memory_bytes"] is not None}
    assert {row.name for row in list_methods("memory") if isinstance(row.target, str)} - {
        "keep_all"
    } <= measured
    best = {row["memory"]: row for row in rows if row["memory_bytes"] in (None, 32_000_000)}
    # what the README says of our own memory
    assert best["tiered"]["accuracy"] >= best["keep-all"]["accuracy"] - 0.05
    assert all(best["tiered"]["accuracy"] > best[name]["accuracy"] for name in ("window", "streaming_vlm"))


def test_readme_shows_a_result_by_line_40() -> None:
    head = "\n".join(README.read_text(encoding="utf-8").splitlines()[:40])
    assert "make demo" in head
    assert "saved: visual tokens" in head


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (README.parent / target).exists(), target


def test_the_short_demo_is_as_short_as_told() -> None:
    assert "in under 40 lines of Python" in README.read_text(encoding="utf-8")
    assert len((README.parent / "demos" / "long_video_qa.py").read_text(encoding="utf-8").splitlines()) < 40
