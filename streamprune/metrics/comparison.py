"""One record of ``streamprune bench`` beside an earlier one: what became faster, slower, or is missing.

Only ratios to the stock model of the same run are compared, so two machines of one kind can be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamprune.errors import InvalidValueError, StorageError

Record = Mapping[str, Any]

# recorded runs that later work must beat, beside this file
GOALS = Path(__file__).parent / "goals"
# by bench: what names a row, and the ratios it has where they are not in a table of their own
_KEYS: dict[str, tuple[str, ...]] = {
    "end-to-end": ("model", "batch", "recipe", "keep_ratio"),
    "pre-llm": ("method", "keep_ratio", "scenes"),
    "in-llm": ("recipe", "keep_ratio", "visual_tokens"),
    "kv": ("recipe", "keep_ratio", "visual_tokens"),
    "llm": ("recipe", "keep_ratio", "visual_tokens"),
    "tower-cache": ("scene", "method"),
}
_FLAT = ("cpu_units", "wall_units", "prefill_ratio", "step_ratio", "kv_ratio", "peak_ratio", "cpu_ratio")
# less sure intervals are not held against each other
SURE = 0.95
# of these more is better
BETTER_UP = ("frames_per_second", "tokens_per_second")
# where records differ in one of these, their ratios mean different things
_MUST_AGREE = (
    "bench", "device", "model_device", "size", "dtype", "num_frames", "layers", "video", "max_new_tokens",
)  # fmt: skip
# differences that are worth a word
_MAY_DIFFER = ("processor", "cores", "threads", "torch", "transformers", "streamprune")


@dataclass(frozen=True)
class Change:
    """One ratio then and now.

    Attributes:
        row: what names the row.
        ratio: its name.
        before, after: medians; None below resolution or not measured.
        apart: whether the intervals do not even touch; None where there are none that are sure enough.
    """

    row: tuple[Any, ...]
    ratio: str
    before: float | None
    after: float | None
    apart: bool | None

    @property
    def percent(self) -> float | None:
        """By how much ``after`` is more than ``before``; None where one of them is not known."""
        if self.before is None or self.after is None or self.before == 0:
            return None
        return 100 * (self.after / self.before - 1)

    @property
    def worse_percent(self) -> float | None:
        """The same with the sign that makes more of it worse."""
        percent = self.percent
        return None if percent is None else -percent if self.ratio in BETTER_UP else percent


@dataclass(frozen=True)
class Comparison:
    """What became of a record.

    Attributes:
        against: name of the earlier record.
        changes: of rows that both have.
        missing: rows that only the earlier one has.
        fresh: rows that only the later one has.
        refused: why nothing can be compared; empty where it can.
        notes: what else differs.
    """

    against: str
    changes: tuple[Change, ...] = ()
    missing: tuple[tuple[Any, ...], ...] = ()
    fresh: tuple[tuple[Any, ...], ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def worst(self) -> Change | None:
        """The change for the worse that is greatest; None where nothing can be told."""
        known = [one for one in self.changes if one.worse_percent is not None]
        return max(known, key=lambda one: one.worse_percent or 0.0, default=None)


def read_record(path: str | Path) -> dict[str, Any]:
    """A record of ``streamprune bench``.

    Raises StorageError when it cannot be read, InvalidValueError when it is something else.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidValueError(
            f"against={str(path)!r} is no record of 'streamprune bench': it is not JSON ({error}); give a "
            "file that 'bench --json FILE' has written, or 'goals'"
        ) from error
    if not isinstance(record, dict) or record.get("bench") not in _KEYS or not _has_rows(record):
        raise InvalidValueError(
            f"against={str(path)!r} is no record of 'streamprune bench': it lacks 'bench' or its rows; give "
            "a file that 'bench --json FILE' has written, or 'goals'"
        )
    return record


def _has_rows(record: Record) -> bool:
    rows, key = record.get("rows"), _KEYS[record["bench"]]
    return isinstance(rows, list) and all(isinstance(row, dict) and _keyed(row, key) for row in rows)


def _keyed(row: Record, key: Sequence[str]) -> bool:
    table = row.get("ratios", {})
    return (
        all(name in row for name in key)
        and isinstance(table, dict)
        and all(
            ratio is None or (isinstance(ratio, dict) and isinstance(ratio.get("median"), int | float))
            for ratio in table.values()
        )
    )


def goal_for(record: Record, folder: Path = GOALS) -> tuple[str, dict[str, Any]]:
    """Of the stored goals the one that can best be compared with ``record``, and its name.

    Raises InvalidValueError when there is none of the same bench.
    """
    goals = {path.name: read_record(path) for path in sorted(folder.glob("*.json"))}
    same = {name: goal for name, goal in goals.items() if goal["bench"] == record["bench"]}
    if not same:
        kinds = ", ".join(sorted({str(goal["bench"]) for goal in goals.values()})) or "no bench"
        raise InvalidValueError(
            f"against='goals': there is no goal for --stage {record['bench']}; goals are stored for {kinds}"
        )
    key = _KEYS[record["bench"]]
    own = {_name(row, key) for row in record["rows"]}

    def fitness(name: str) -> tuple[int, int]:
        rows = {_name(row, key) for row in same[name]["rows"]}
        return -len(_differences(record, same[name], _MUST_AGREE)), len(rows & own)

    best = max(same, key=fitness)
    return f"goal {best}", same[best]


def compare(record: Record, before: Record, against: str) -> Comparison:
    """What became of the ratios of ``before`` in ``record``."""
    refused = _differences(record, before, _MUST_AGREE)
    if refused:
        return Comparison(against, refused=refused)
    key = _KEYS[record["bench"]]
    then = {_name(row, key): row for row in before["rows"]}
    now = {_name(row, key): row for row in record["rows"]}
    return Comparison(
        against,
        tuple(change for name in now if name in then for change in _changes(name, then[name], now[name])),
        tuple(name for name in then if name not in now),
        tuple(name for name in now if name not in then),
        (),
        _differences(record, before, _MAY_DIFFER),
    )


def _name(row: Record, key: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in key)


def _differences(record: Record, before: Record, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{name}: {before.get(name)!r} then, {record.get(name)!r} now"
        for name in names
        if before.get(name) != record.get(name)
    )


def _changes(name: tuple[Any, ...], before: Record, after: Record) -> list[Change]:
    then, now = _ratios(before), _ratios(after)
    changes = []
    for ratio in dict.fromkeys((*now, *then)):
        old, new = then.get(ratio), now.get(ratio)
        apart = None
        if old and new and min(old.get("confidence", 0), new.get("confidence", 0)) >= SURE:
            apart = new["low"] > old["high"] or new["high"] < old["low"]
        changes.append(
            Change(name, ratio, old["median"] if old else None, new["median"] if new else None, apart)
        )
    return changes


def _ratios(row: Record) -> dict[str, dict[str, float] | None]:
    table = row.get("ratios")
    if isinstance(table, dict):
        return table
    return {name: {"median": row[name]} for name in _FLAT if isinstance(row.get(name), int | float)}
