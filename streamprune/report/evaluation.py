"""What an evaluation found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]
# more rows than this, and what each is right about by category is left to the record
_BESIDE = 9
# further columns, where any row has the entry
_SHARES = {"evidence": "evidence_recall", "prefill": "prefill_flops", "cache": "kv_bytes"}


def evaluation_tables(record: Mapping[str, Any]) -> Iterator[Table]:
    """All recipes with what they have to beat; then, of a few recipes, what each is right about."""
    rows: list[Row] = [record["full"], *record["rows"]]
    yield _main(record, rows)
    names = list(record["full"].get("categories", ()))
    if len(rows) <= _BESIDE and len(names) > 1 and "accuracy" in record["full"]:
        yield _categories(rows, names)


def evaluation_notes(record: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the tables has to know besides, one sentence each."""
    if record.get("missing_videos"):
        first, *others = record["missing_videos"]
        more = f" and {len(others)} more" if others else ""
        without = _counted(record["questions_without_video"], "question")
        yield f"left out, {without} about videos that are not there: {first}{more}"
    yield from record.get("left_out", ())
    for unread in record["unread"]:
        yield f"not read, {_counted(unread['questions'], 'question')} apart: {unread['reason']}"
    for name, why in record["notes"].items():
        yield f"no row for {name}: {why}"
    for row in [record["full"], *record["rows"]]:
        if "refused" in row:
            who, without = f"{row['recipe']} {row['keep_ratio']:g}", _counted(row["refused"], "question")
            yield f"{who} did not answer {without}: {row['refused_first']}"
    if "accuracy" not in record["full"]:
        yield "no answers are known: loyalty to the full model is all that can be said"
    if record["overhead_share"] is not None:
        yield (
            f"{_counted(record['asked'], 'answer')} in {record['seconds']:.1f} s, of which "
            f"{100 * record['overhead_share']:.1f} % went into neither videos nor models"
        )


def _main(record: Mapping[str, Any], rows: Sequence[Row]) -> Table:
    title = f"{_counted(record['questions'], 'question')} of {record['eval']}, {record['model']}"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    kinds = sorted({name for row in rows for name in row.get("groups", ())})
    shares = [label for label, name in _SHARES.items() if any(name in row for row in rows)]
    grouped = any("all_right" in row for row in rows)
    columns = ["recipe", "keep", "tokens", "strict", "95 %", "lenient", "95 %"]
    columns += ["all right"] * grouped + ["unparsed", "loyal", *kinds, *shares]
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number < 5)
    for row in rows:
        cells = [("= " if "equal_to" in row else "") + row["recipe"], f"{row['keep_ratio']:g}"]
        cells.append(f"{row['tokens_kept']:.1f}" if "tokens_kept" in row else "refused")
        cells += [*_interval(row), *_interval(row.get("lenient", {}))]
        cells += [_percent(row.get("all_right", {}), "accuracy")] * grouped
        cells += [str(row.get("unparsed", "")), _percent(row.get("loyalty", {}), "accuracy")]
        cells += [_percent(row.get("groups", {}).get(kind, {}), "accuracy") for kind in kinds]
        table.add_row(*cells, *(_percent(row, _SHARES[label]) for label in shares))
    return table


def _categories(rows: Sequence[Row], names: Sequence[str]) -> Table:
    table = Table(title="strict, by category", title_justify="left", box=None, header_style="bold")
    table.add_column("category", justify="left")
    table.add_column("n", justify="right")
    for row in rows:
        table.add_column(f"{row['recipe']} {row['keep_ratio']:g}", justify="right")
    for name in names:
        entries = [row.get("categories", {}).get(name, {}) for row in rows]
        table.add_row(
            name or "-", str(entries[0].get("count", "")), *(_percent(e, "accuracy") for e in entries)
        )
    return table


def _interval(entry: Row) -> tuple[str, str]:
    if "accuracy" not in entry:
        return "", ""
    return _percent(entry, "accuracy"), f"{_percent(entry, 'low')}-{_percent(entry, 'high')}"


def _percent(entry: Row, name: str) -> str:
    return f"{100 * entry[name]:.1f}" if name in entry else ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
