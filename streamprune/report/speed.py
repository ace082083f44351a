"""The speed of reducers as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

Rows = Sequence[Mapping[str, Any]]


def speed_table(rows: Rows) -> Table:
    """One line per method with its units on every clip, beside the released code's."""
    scenes = _scenes(rows)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method")
    for heading in ("kept", *(f"units, {n} scenes" for n in scenes), "released"):
        table.add_column(heading, justify="right")
    for name, cells in _lines(rows):
        table.add_row(name, *cells)
    return table


def speed_markdown(rows: Rows) -> str:
    """The same as Markdown."""
    scenes = _scenes(rows)
    head = ("method", "kept", *(f"units, {n} scenes" for n in scenes), "released")
    rule = ("---", *("--:" for _ in head[1:]))
    lines = [head, rule, *((name, *cells) for name, cells in _lines(rows))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _scenes(rows: Rows) -> list[int]:
    return sorted({int(row["scenes"]) for row in rows})


def _lines(rows: Rows) -> list[tuple[str, list[str]]]:
    """(method, cells), in the order of the record; units are of elapsed time."""
    scenes = _scenes(rows)
    found = {(row["method"], row["scenes"]): row for row in rows}
    lines = []
    for name in dict.fromkeys(str(row["method"]) for row in rows):
        have = [found[name, n] for n in scenes if (name, n) in found]
        kept = sorted({f"{100 * row['kept_ratio']:.1f} %" for row in have})
        units = [f"{found[name, n]['wall_units']:.1f}" if (name, n) in found else "" for n in scenes]
        released = have[0]["released_units"]
        lines.append((name, [" / ".join(kept), *units, "" if released is None else f"{released:g}"]))
    return lines
