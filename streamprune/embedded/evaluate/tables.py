"""The report as text."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _interval(entry: dict[str, Any]) -> tuple[str, str, str]:
    return f"{entry['accuracy']:.3f}", f"{entry['low']:.3f}-{entry['high']:.3f}", str(entry["count"])


def show(report: dict[str, Any], console: Console) -> None:
    """Print every table of a report."""
    types = _table(
        f"Accuracy, {report['frames']} frames, {report['tokens']} tokens", "type", "right", "95 %", "n"
    )
    for name, entry in {**report["by_type"], "all": report["full"], "blind": report["blind"]}.items():
        types.add_row(name, *_interval(entry))
    console.print(types)
    kept = _table(
        "Tokens kept", "method", "keep", "tokens", "right", "95 %", "of full", "needle", "main", "global"
    )
    for method, ratios in report["retention"].items():
        for ratio, entry in ratios.items():
            right, bounds, _ = _interval(entry)
            groups = [f"{entry.get(group, 0):.3f}" for group in ("needle", "main", "global")]
            kept.add_row(
                method,
                ratio,
                f"{entry['tokens_kept']:.1f}",
                right,
                bounds,
                f"{entry['retained']:.3f}",
                *groups,
            )
    console.print(kept)
    other = _table("Other conditions", "condition", "right", "95 %", "n")
    conditions = {f"{n} frames": e for n, e in report["other_lengths"].items()}
    conditions |= {f"stream, gaps of at most {gap}": e for gap, e in report["memory"].items()}
    for name, entry in {
        **report["damage"],
        **conditions,
        "training wordings": report["training_wordings"],
    }.items():
        other.add_row(name, *_interval(entry))
    console.print(other)
    columns = ("all_objects", "brief_objects", "answers")
    salient = _table(
        "The most salient tokens of a frame: objects touched, answers from them", "choice", *columns
    )
    for name, entry in report["saliency"].items():
        salient.add_row(name, *(f"{entry[column]['accuracy']:.3f}" for column in columns))
    console.print(salient)
    agree = report["generate"]
    console.print(f"generate() agrees on {agree['same_verdict']} of {agree['questions']} questions; ", end="")
    console.print(f"{report['cpu_minutes']} CPU-minutes.")
