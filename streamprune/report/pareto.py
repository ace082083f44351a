"""What tuning found: the points that no other beats in everything, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from streamprune.report.plot import new_figure, save_figure

Row = Mapping[str, Any]

_AXES = ("loss", "ttft_ms", "memory_bytes")
_COLUMNS = ("", "recipe", "keep", "questions", "tokens", "loss, points", "first token, ms", "memory, MB")


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Those of ``rows`` that no other beats: in nothing worse, in something better, on as many questions.

    Those that answered less than an eighth of what another did are left out: next to nothing is known of
    them. From the largest memory to the smallest.
    """
    most = max((row["questions"] for row in rows), default=0)
    known = [row for row in rows if 8 * row["questions"] >= most]
    front = [row for row in known if not any(_beats(other, row) for other in known)]
    return sorted(front, key=lambda row: (-row["memory_bytes"], row["ttft_ms"]))


def _beats(one: Row, other: Row) -> bool:
    if one["questions"] < other["questions"]:
        return False
    pairs = [(one[axis], other[axis]) for axis in _AXES]
    return all(mine <= yours for mine, yours in pairs) and any(mine < yours for mine, yours in pairs)


def pareto_table(record: Mapping[str, Any]) -> Table:
    """The full model, then the points that none beats, with 95 % intervals; the chosen one is marked."""
    scored, questions = record["scored"], record["questions"]
    measure = "accuracy" if scored == questions else "accuracy and loyalty" if scored else "loyalty"
    table = Table(
        title=f"Loss of {measure} against time and memory, {questions} questions",
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    with_frames = any(row["num_frames"] is not None for row in record["rows"])
    columns = [*_COLUMNS[:3], "frames", *_COLUMNS[3:]] if with_frames else list(_COLUMNS)
    for column in columns:
        table.add_column(column, justify="left" if column in ("", "recipe") else "right")
    rows = [record["full"], *pareto_front(record["rows"])]
    if not any(row.get("chosen") for row in rows):
        rows += [row for row in record["rows"] if row.get("chosen")]
    for row in rows:
        cells = _cells(row, with_frames)
        table.add_row(*cells, style="bold" if row.get("chosen") else None)
    return table


def _cells(row: Row, with_frames: bool) -> list[str]:
    frames = [] if not with_frames else ["" if row["num_frames"] is None else str(row["num_frames"])]
    full = row["recipe"] == "full"
    loss = f"{row['loss']:.1f} ({row['loss_low']:.1f} to {row['loss_high']:.1f})"
    ttft = f"{row['ttft_ms']:.0f} ({row['ttft_low_ms']:.0f} to {row['ttft_high_ms']:.0f})"
    return [
        ">" if row.get("chosen") else "",
        row["recipe"],
        row["keep"],
        *frames,
        str(row["questions"]),
        f"{row['tokens_kept']:.0f}",
        "" if full else loss,
        ttft,
        f"{row['memory_bytes'] / 1e6:.2f}",
    ]


def plot_pareto(record: Mapping[str, Any], path: str | Path) -> None:
    """Draw loss against time to the first token into ``path`` (.png, .svg or .pdf), targets as lines.

    Raises MissingDependencyError without matplotlib, StorageError when the file cannot be written.
    """
    figure = new_figure()
    axes = figure.subplots()
    front = {row["id"] for row in pareto_front(record["rows"])}
    for number, recipe in enumerate(dict.fromkeys(row["recipe"] for row in record["rows"])):
        rows = sorted(
            (row for row in record["rows"] if row["recipe"] == recipe), key=lambda row: row["ttft_ms"]
        )
        _draw(axes, rows, front, f"C{number % 10}")
    for row in record["rows"]:
        if row.get("chosen"):
            axes.scatter(row["ttft_ms"], row["loss"], s=220, facecolors="none", edgecolors="black", zorder=5)
    full = record["full"]
    axes.scatter(full["ttft_ms"], 0, marker="*", s=120, color="black", label="full model", zorder=4)
    targets = record["targets"]
    if targets["max_loss"] is not None:
        axes.axhline(targets["max_loss"], color="black", linewidth=0.8, linestyle=":")
    if targets["ttft_ms"] is not None:
        axes.axvline(targets["ttft_ms"], color="black", linewidth=0.8, linestyle=":")
    axes.set_xlabel("time to the first token, ms")
    axes.set_ylabel("points lost")
    axes.set_title(f"{record['questions']} questions; filled: beaten by none, circled: chosen")
    axes.legend(fontsize=7)
    save_figure(figure, path)


def _draw(axes: Any, rows: Sequence[Row], front: set[str], color: str) -> None:
    """The points of one recipe: filled where no other beats them, larger the more questions they answered."""
    most = max(row["questions"] for row in rows)
    for row in rows:
        axes.scatter(
            row["ttft_ms"],
            row["loss"],
            s=15 + 45 * row["questions"] / most,
            edgecolors=color,
            facecolors=color if row["id"] in front else "none",
            zorder=3,
        )
    axes.scatter([], [], color=color, label=rows[0]["recipe"])
