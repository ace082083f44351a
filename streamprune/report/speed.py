"""The speed of reducers, and of a language model with recipes, as tables."""

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


def llm_table(rows: Rows) -> Table:
    """One line per recipe and share, everything as a ratio to the stock model in the same run."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    head, *lines = _llm_lines(rows)
    for number, heading in enumerate(head):
        table.add_column(heading, justify="right" if number else "left")
    for cells in lines:
        table.add_row(*cells)
    return table


def llm_markdown(rows: Rows) -> str:
    """The same as Markdown."""
    head, *rows_of_cells = _llm_lines(rows)
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows_of_cells]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def overhead_markdown(rows: Rows) -> str:
    """One line per recipe that keeps everything: what its presence costs."""
    head = ["recipe", "tokens", "prefill", "more per decode step"]
    lines = [head, ["---", *("--:" for _ in head[1:])]]
    for row in rows:
        more = f"{row['step_extra_milliseconds']:.2f} ms"
        tokens = f"{row['visual_tokens']:,}"
        lines.append([str(row["recipe"]), tokens, f"{row['prefill_ratio']:.3f}", more])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def _llm_lines(rows: Rows) -> list[list[str]]:
    """Headings and cells; of peak memory only where it was measured."""
    with_peak = any(row["peak_ratio"] is not None for row in rows)
    lines = [["recipe", "keep", "prefill", "decode step", "cache bytes"]]
    lines[0] += ["peak memory", "reduction"] if with_peak else ["reduction"]
    for row in rows:
        peak = "" if row["peak_ratio"] is None else f"{row['peak_ratio']:.2f}"
        ratios = (f"{row[name]:.2f}" for name in ("prefill_ratio", "step_ratio", "kv_ratio"))
        reduction = f"{row['reduce_milliseconds']:.0f} ms"
        lines.append(
            [str(row["recipe"]), f"{row['keep_ratio']:g}", *ratios, *([peak] if with_peak else []), reduction]
        )
    return lines


def _scenes(rows: Rows) -> list[int]:
    return sorted({int(row["scenes"]) for row in rows})


def _lines(rows: Rows) -> list[tuple[str, list[str]]]:
    """(method, cells), in the order of the record; units are of elapsed time."""
    scenes = _scenes(rows)
    found = {(row["method"], row["keep_ratio"], row["scenes"]): row for row in rows}
    lines = []
    for name, asked in dict.fromkeys((str(row["method"]), row["keep_ratio"]) for row in rows):
        have = [found[name, asked, n] for n in scenes if (name, asked, n) in found]
        kept = sorted({f"{100 * row['kept_ratio']:.1f} %" for row in have})
        by_scenes = {row["scenes"]: f"{row['wall_units']:.1f}" for row in have}
        units = [by_scenes.get(n, "") for n in scenes]
        released = have[0]["released_units"]
        lines.append((name, [" / ".join(kept), *units, "" if released is None else f"{released:g}"]))
    return lines


def tower_table(rows: Rows) -> Table:
    """One line per scene and setting: the tower's time and what answers lose, beside the plain tower."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    head, *lines = _tower_lines(rows)
    for number, heading in enumerate(head):
        table.add_column(heading, justify="right" if number > 1 else "left")
    for cells in lines:
        table.add_row(*cells)
    return table


def tower_markdown(rows: Rows) -> str:
    """The same as Markdown."""
    head, *lines = _tower_lines(rows)
    every = [head, ["---", "---", *("--:" for _ in head[2:])], *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in every) + "\n"


def _tower_lines(rows: Rows) -> list[list[str]]:
    """Headings and cells; time ratios are of processor time."""
    lines = [["scene", "setting", "recomputed", "tower time", "accuracy", "points lost"]]
    for row in rows:
        timed, asked = "cpu_ratio" in row, "accuracy" in row
        lines.append(
            [
                str(row["scene"]),
                str(row["method"]),
                f"{100 * row['tower_share']:.1f} %",
                f"{row['cpu_ratio']:.3f}" if timed else "",
                f"{100 * row['accuracy']:.1f} %" if asked else "",
                f"{row['loss_points']:.1f}" if asked else "",
            ]
        )
    return lines
