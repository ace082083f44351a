"""What became of a recorded run, as a table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from streamprune.metrics.comparison import Change, Comparison
from streamprune.report.bench_table import BELOW, LABELS


def change_table(comparison: Comparison) -> Table:
    """One line per ratio that both runs have, and that at least one of them could tell."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("row", no_wrap=True)
    table.add_column("ratio to stock", no_wrap=True)
    for heading in ("then", "now", "change"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for change in comparison.changes:
        if change.before is None and change.after is None:
            continue
        table.add_row(
            " ".join(_part(part) for part in change.row),
            LABELS.get(change.ratio, (change.ratio, "", ""))[0],
            *(BELOW if value is None else f"{value:.3f}" for value in (change.before, change.after)),
            "" if change.percent is None else f"{change.percent:+.1f} %",
            _verdict(change),
        )
    return table


def _verdict(change: Change) -> str:
    """Only where the intervals say so."""
    if not change.apart or change.worse_percent is None:
        return ""
    return "[red]worse[/red]" if change.worse_percent > 0 else "[green]better[/green]"


def change_lines(comparison: Comparison) -> Iterator[str]:
    """What the table does not hold: what cannot be compared, and why."""
    for reason in comparison.refused:
        yield f"not comparable with {comparison.against}: {reason}"
    for row in comparison.missing:
        yield f"only in {comparison.against}: {' '.join(_part(part) for part in row)}"
    for row in comparison.fresh:
        yield f"not in {comparison.against}: {' '.join(_part(part) for part in row)}"
    for note in comparison.notes:
        yield f"note: {note}"


def _part(part: object) -> str:
    return f"{part:g}" if isinstance(part, float) else str(part)
