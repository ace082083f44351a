"""What reductions lose, as tables and as a plot of accuracy against kept tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from streamprune.report.plot import new_figure, save_figure

Rows = Sequence[Mapping[str, Any]]
GROUPS = ("needle", "main", "global")
_COLUMNS = ("recipe", "keep", "tokens", "right", "95 %")
# further columns, where the record has the entry: which share of it is left
_COSTS = {"evidence": "evidence_recall", "prefill": "prefill_flops", "cache": "kv_bytes"}
# these stand out in the plot; everything else is drawn thin
_BASELINES = {"random": "tab:gray", "stride": "tab:olive", "pool": "tab:brown", "oracle": "black"}
_OURS = "streamprune"


def retention_table(record: Mapping[str, Any]) -> Table:
    """One line per recipe and keep ratio."""
    title = f"{record['questions']} questions, {record['frames']} frames, {record['tokens']} tokens"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate((*_COLUMNS, *GROUPS, *_COSTS)):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in [record["full"], *record["rows"]]:
        table.add_row(
            row["recipe"],
            f"{row['keep_ratio']:g}",
            f"{row['tokens_kept']:.1f}",
            _percent(row["accuracy"]),
            f"{_percent(row['low'])}-{_percent(row['high'])}",
            *(
                _percent(row["groups"][group]["accuracy"]) if group in row["groups"] else ""
                for group in GROUPS
            ),
            *(_percent(row[cost]) if cost in row else "" for cost in _COSTS.values()),
        )
    return table


def retention_markdown(record: Mapping[str, Any]) -> str:
    """One line per recipe, one column per keep ratio: per cent right, 95 % interval, tokens kept."""
    ratios = sorted({row["keep_ratio"] for row in record["rows"]}, reverse=True)
    lines = [["recipe", *(f"{ratio:g}" for ratio in ratios)], ["---", *("---" for _ in ratios)]]
    for recipe in dict.fromkeys(row["recipe"] for row in record["rows"]):
        found = {row["keep_ratio"]: row for row in record["rows"] if row["recipe"] == recipe}
        lines.append([recipe, *(_cell(found[ratio]) if ratio in found else "" for ratio in ratios)])
    return _markdown(lines)


def groups_markdown(record: Mapping[str, Any], keep_ratio: float) -> str:
    """One line per recipe at ``keep_ratio``: question groups and evidence recall, in per cent."""
    lines = [["recipe", "tokens", "all", *GROUPS, "evidence recall"], ["---", *("--:" for _ in range(6))]]
    rows = [row for row in record["rows"] if row["keep_ratio"] == keep_ratio]
    for row in sorted(rows, key=lambda row: -float(row["accuracy"])):
        groups = [_percent(row["groups"][group]["accuracy"]) for group in GROUPS if group in row["groups"]]
        lines.append(
            [
                row["recipe"],
                f"{row['tokens_kept']:.0f}",
                _percent(row["accuracy"]),
                *groups,
                _percent(row["evidence_recall"]) if "evidence_recall" in row else "",
            ]
        )
    return _markdown(lines)


def costs_markdown(record: Mapping[str, Any]) -> str:
    """One line per recipe and share: per cent right with 95 % interval, prefill operations, cache bytes."""
    lines = [["recipe", "keep", "right", "of full", "prefill operations", "cache bytes"]]
    lines.append(["---", *("--:" for _ in lines[0][1:])])
    for row in record["rows"]:
        costs = (f"{_percent(row[name])} %" if name in row else "" for name in ("prefill_flops", "kv_bytes"))
        name, asked = row["recipe"], f"{row['keep_ratio']:g}"
        lines.append([name, asked, _share(row), _percent(row["retained"]), *costs])
    return _markdown(lines)


def models_markdown(records: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per recipe: per cent right with its interval, and cache bytes, on every model."""
    head = [column for model in records for column in (f"{model}: right", "cache bytes")]
    lines = [["recipe", *head], ["---", *("--:" for _ in head)]]
    whole = [cell for record in records.values() for cell in (_share(record["full"]), "100.0 %")]
    lines.append(["everything", *whole])
    for recipe in dict.fromkeys(row["recipe"] for record in records.values() for row in record["rows"]):
        cells: list[str] = []
        for record in records.values():
            row = next((row for row in record["rows"] if row["recipe"] == recipe), None)
            cells += ["", ""] if row is None else [_share(row), f"{_percent(row['kv_bytes'])} %"]
        lines.append([recipe, *cells])
    return _markdown(lines)


def _share(row: Mapping[str, Any]) -> str:
    return f"{_percent(row['accuracy'])} ({_percent(row['low'])}-{_percent(row['high'])})"


def plot_retention(record: Mapping[str, Any], path: str | Path) -> None:
    """Draw accuracy against kept tokens into ``path`` (.png, .svg or .pdf).

    Raises MissingDependencyError without matplotlib, StorageError when the file cannot be written.
    """
    figure = new_figure()
    axes = figure.subplots()
    for number, recipe in enumerate(dict.fromkeys(row["recipe"] for row in record["rows"])):
        _draw(axes, [row for row in record["rows"] if row["recipe"] == recipe], number)
    full = 100 * record["full"]["accuracy"]
    axes.axhline(full, color="black", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"all {record['tokens']} tokens",
        (1, full),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("visual tokens kept (log scale)")
    axes.set_ylabel("questions right, %")
    axes.set_title(f"Embedded world, {record['questions']} questions about {record['frames']}-frame clips")
    axes.legend(fontsize=6, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def _draw(axes: Any, rows: Rows, number: int) -> None:
    """One recipe's line; those that are not to stand out differ by colour, dashes and marker."""
    recipe = str(rows[0]["recipe"])
    rows = sorted(rows, key=lambda row: float(row["tokens_kept"]))
    special = recipe == _OURS or recipe in _BASELINES
    style = (
        {"color": "tab:red" if recipe == _OURS else _BASELINES[recipe], "linewidth": 2.2, "marker": "o"}
        if special
        else {
            "color": f"C{number % 10}",
            "linewidth": 0.8,
            "alpha": 0.7,
            "marker": "sv^<>DPX*"[number // 10 % 9],
        }
    )
    axes.plot(
        [row["tokens_kept"] for row in rows],
        [100 * row["accuracy"] for row in rows],
        linestyle="--" if recipe in _BASELINES else ("-", "-.", ":")[number // 10 % 3],
        markersize=4,
        zorder=3 if special else 2,
        label=recipe,
        **style,
    )


def _cell(row: Mapping[str, Any]) -> str:
    interval = f"{_percent(row['low'])}-{_percent(row['high'])}"
    return f"{_percent(row['accuracy'])} ({interval}), {row['tokens_kept']:.0f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
