"""One bench record beside an earlier one."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from streamprune.errors import InvalidValueError, StorageError
from streamprune.metrics.comparison import GOALS, compare, goal_for, read_record


def _ratio(median: float, spread: float = 0.01) -> dict[str, float]:
    return {"median": median, "low": median - spread, "high": median + spread, "confidence": 0.96}


def _row(recipe: str, keep_ratio: float, **ratios: Any) -> dict[str, Any]:
    return {"model": "m", "batch": 1, "recipe": recipe, "keep_ratio": keep_ratio, "ratios": ratios}


def _record(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"bench": "end-to-end", "device": "cpu", "torch": "2.13.0", "rows": list(rows), **more}


def test_rows_are_matched_and_ratios_compared() -> None:
    before = _record(
        _row("a", 0.25, ttft=_ratio(0.5), tokens_per_second=_ratio(2.0), decode=None),
        _row("gone", 0.25, ttft=_ratio(0.5)),
    )
    now = _record(
        _row("new", 0.1, ttft=_ratio(0.5)),
        _row("a", 0.25, ttft=_ratio(0.6), tokens_per_second=_ratio(2.5), decode=_ratio(1.0)),
    )
    found = compare(now, before, "old.json")
    assert found.refused == ()
    assert found.missing == (("m", 1, "gone", 0.25),)
    assert found.fresh == (("m", 1, "new", 0.1),)
    ttft, tokens, decode = found.changes
    assert (ttft.row, ttft.before, ttft.after, ttft.apart) == (("m", 1, "a", 0.25), 0.5, 0.6, True)
    assert ttft.percent == pytest.approx(20)
    assert ttft.worse_percent == pytest.approx(20)
    # of tokens a second more is better
    assert tokens.percent == pytest.approx(25)
    assert tokens.worse_percent == pytest.approx(-25)
    assert (decode.percent, decode.apart) == (None, None)
    assert found.worst() == ttft


def test_intervals_that_touch_are_not_apart() -> None:
    before = _record(_row("a", 0.25, ttft=_ratio(0.5, 0.1)))
    (change,) = compare(_record(_row("a", 0.25, ttft=_ratio(0.6, 0.1))), before, "x").changes
    assert change.apart is False


def test_another_device_cannot_be_compared_and_another_torch_can() -> None:
    before = _record(_row("a", 0.25, ttft=_ratio(0.5)), device="NVIDIA H200", torch="2.12.0")
    found = compare(_record(_row("a", 0.25, ttft=_ratio(0.5))), before, "x")
    assert found.refused == ("device: 'NVIDIA H200' then, 'cpu' now",)
    assert found.changes == ()
    assert found.worst() is None
    other = compare(_record(_row("a", 0.25, ttft=_ratio(0.5))), {**before, "device": "cpu"}, "x")
    assert other.notes == ("torch: '2.12.0' then, '2.13.0' now",)
    assert len(other.changes) == 1


def test_flat_rows_of_the_other_stages_are_compared_too() -> None:
    row = {
        "recipe": "fastv",
        "keep_ratio": 0.5,
        "visual_tokens": 196,
        "prefill_ratio": 0.5,
        "peak_ratio": None,
    }
    before = {"bench": "llm", "rows": [row]}
    (change,) = compare({"bench": "llm", "rows": [{**row, "prefill_ratio": 0.25}]}, before, "x").changes
    assert (change.ratio, change.apart) == ("prefill_ratio", None)
    assert change.percent == pytest.approx(-50)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "it is not JSON"),
        ("[]", "it lacks 'bench'"),
        ('{"bench": "unheard of", "rows": []}', "it lacks 'bench'"),
        ('{"bench": "end-to-end"}', "or its rows"),
        ('{"bench": "end-to-end", "rows": [{"recipe": "a"}]}', "or its rows"),
        (json.dumps(_record(_row("a", 0.1, ttft=3))), "or its rows"),
        (json.dumps(_record(_row("a", 0.1, ttft={"median": "fast"}))), "or its rows"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(InvalidValueError, match=said):
        read_record(path)


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*gone\.json"):
        read_record(tmp_path / "gone.json")


def test_the_goal_that_fits_best_is_taken(tmp_path: Path) -> None:
    goal = _record(_row("a", 0.25, ttft=_ratio(0.5)))
    other = _record(_row("b", 0.25, ttft=_ratio(0.5)))
    elsewhere = _record(_row("b", 0.25, ttft=_ratio(0.5)), device="NVIDIA H200")
    for name, record in (("x", other), ("y", goal), ("z", elsewhere)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert goal_for(copy.deepcopy(goal), tmp_path) == ("goal y.json", goal)
    assert goal_for(elsewhere, tmp_path)[0] == "goal z.json"
    with pytest.raises(InvalidValueError, match="no goal for --stage kv; goals are stored for end-to-end"):
        goal_for({"bench": "kv", "rows": []}, tmp_path)


@pytest.mark.parametrize("path", sorted(GOALS.glob("*.json")), ids=lambda path: path.name)
def test_stored_goals_are_recorded_runs(path: Path) -> None:
    record = read_record(path)
    assert {"command", "date", "device", "processor", "torch"} <= record.keys()
    assert compare(record, record, path.name).refused == ()
    assert compare(record, record, path.name).changes
