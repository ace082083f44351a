"""What memories of streams still know, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

AGES = ("past", "recent", "now")
_COLUMNS = (
    "memory", "bytes", "strict", "95 %", "lenient", "unparsed", "loyal", *AGES, "peak bytes", "knows from",
    "answer",
)  # fmt: skip


def needles_table(record: Mapping[str, Any]) -> Table:
    """One line per memory and budget."""
    title = f"{record['questions']} questions about {record['streams']} streams of {record['frames']} frames"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in record["rows"]:
        table.add_row(*_cells(row))
    return table


def needles_markdown(record: Mapping[str, Any]) -> str:
    """One line per memory, best first, one column per budget: per cent right with 95 % interval.

    What has no budget comes last.
    """
    rows = record["rows"]
    sizes = sorted({row["memory_bytes"] for row in rows if row["memory_bytes"] is not None})
    lines = [["memory", *(_size(size) for size in sizes)], ["---", *("--:" for _ in sizes)]]
    for memory in sorted(dict.fromkeys(row["memory"] for row in rows), key=lambda name: _rank(name, rows)):
        found = {row["memory_bytes"]: row for row in rows if row["memory"] == memory}
        if None in found:
            lines.append([memory, _share(found[None]), *("" for _ in sizes[1:])])
        else:
            lines.append([memory, *(_share(found[size]) if size in found else "" for size in sizes)])
    return _markdown(lines)


def ages_markdown(record: Mapping[str, Any], memory_bytes: int) -> str:
    """One line per memory at ``memory_bytes``, best first: by age, what was held, and what an answer took."""
    head = ["memory", "all", *AGES, "held at most", "knows from", "a frame", "an answer"]
    lines = [head, ["---", *("--:" for _ in head[1:])]]
    rows = [
        row for row in record["rows"] if row["memory_bytes"] in (None, memory_bytes) and "accuracy" in row
    ]
    for row in sorted(rows, key=lambda row: -float(row["accuracy"])):
        cells = [row["memory"], _percent(row["accuracy"])]
        cells += [_percent(row["age"][age]["accuracy"]) if age in row["age"] else "" for age in AGES]
        if "peak_bytes" in row:
            cells += [
                f"{row['peak_bytes'] / 1e6:.1f} MB",
                f"{row['remembers_from_seconds']:.0f} s",
                f"{row['push_ms']:.0f} ms",
                f"{row['ask_ms']:.0f} ms",
            ]
        lines.append(cells + [""] * (len(head) - len(cells)))
    return _markdown(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    size = "" if row["memory_bytes"] is None else _size(row["memory_bytes"])
    if "accuracy" not in row:
        return [row["memory"], size, row["refused"]]
    cells = [
        row["memory"],
        size,
        _percent(row["accuracy"]),
        f"{_percent(row['low'])}-{_percent(row['high'])}",
        _percent(row["lenient"]["accuracy"]) if "lenient" in row else "",
        str(row.get("unparsed", "")),
        _percent(row["loyalty"]["accuracy"]) if "loyalty" in row else "",
    ]
    cells += [_percent(row["age"][age]["accuracy"]) if age in row["age"] else "" for age in AGES]
    if "peak_bytes" in row:
        cells += [
            f"{row['peak_bytes']:,}",
            f"{row['remembers_from_seconds']:.0f} s",
            f"{row['ask_ms']:.0f} ms",
        ]
    return cells


def _rank(memory: str, rows: Sequence[Mapping[str, Any]]) -> tuple[bool, float]:
    """Where a memory stands among others: by its mean over the budgets, those without one at the end."""
    own = [row for row in rows if row["memory"] == memory]
    shares = [float(row.get("accuracy", 0)) for row in own]
    return own[0]["memory_bytes"] is None, -sum(shares) / len(shares)


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:g} MB"


def _share(row: Mapping[str, Any]) -> str:
    if "accuracy" not in row:
        return "too little"
    return f"{_percent(row['accuracy'])} ({_percent(row['low'])}-{_percent(row['high'])})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
