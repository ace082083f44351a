"""Rich tables: what a run cost, and which methods there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from streamprune.registry import MethodInfo

# (key in Stats.to_dict(), label, kind of number)
_ROWS: tuple[tuple[str, str, str], ...] = (
    ("frames", "frames", "count"),
    ("tokens_in", "visual tokens in", "count"),
    ("tokens_kept", "visual tokens kept", "count"),
    ("decode_ms", "decode", "ms"),
    ("preprocess_ms", "preprocess", "ms"),
    ("encode_ms", "encode", "ms"),
    ("tower_share", "vision tower tokens", "share"),
    ("choose_ms", "choose frames", "ms"),
    ("reduce_ms", "reduce", "ms"),
    ("prefill_ms", "prefill", "ms"),
    ("generate_ms", "generate", "ms"),
    ("reduce_flops", "LLM FLOPs to choose", "flops"),
    ("prefill_flops", "LLM prefill FLOPs", "flops"),
    ("kv_bytes", "KV cache", "bytes"),
    ("peak_bytes", "peak memory", "bytes"),
)


def stats_table(columns: Sequence[tuple[str, Mapping[str, int | float]]]) -> Table:
    """One column of figures per (label, stats); with two columns a third shows the second over the first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("")
    for label, _ in columns:
        table.add_column(label, justify="right")
    if len(columns) == 2:
        table.add_column("ratio", justify="right", style="cyan")
    for label, cells in stats_rows([stats for _, stats in columns]):
        table.add_row(label, *cells)
    return table


def stats_rows(columns: Sequence[Mapping[str, int | float]]) -> Iterator[tuple[str, list[str]]]:
    """(label, a cell for each of ``columns``) of every figure; of two also the second over the first.

    Figures that say nothing about these runs are left out.
    """
    for key, label, kind in _ROWS:
        values = [stats[key] for stats in columns]
        if key in ("choose_ms", "reduce_flops") and not any(values):
            continue  # few methods choose frames by what is in them, or let the language model choose
        if key == "tower_share" and all(value == 1 for value in values):
            continue  # no method worked inside the vision tower
        cells = [readable(value, kind) for value in values]
        if len(values) == 2:
            cells.append(f"{values[1] / values[0]:.2f}" if values[0] else "")
        yield label, cells


def readable(value: float, kind: str) -> str:
    """A figure with its unit; ``kind`` is "count", "share", "ms", "flops" or "bytes"."""
    if kind == "count":
        return f"{value:,.0f}"
    if kind == "share":
        return f"{value:.0%}"
    if kind == "ms":
        return f"{value:,.1f} ms"
    step, units = (
        (1000, ("", " K", " M", " G", " T")) if kind == "flops" else (1024, (" B", " KB", " MB", " GB"))
    )
    power = 0
    while value >= step and power + 1 < len(units):
        value /= step
        power += 1
    return f"{value:,.1f}{units[power]}"


_COLUMNS = ("stage", "name", "needs", "causal", "families", "source", "what it does")


def _cells(method: MethodInfo) -> tuple[str, ...]:
    return (
        method.stage,
        method.name,
        ", ".join(method.needs) or "nothing",
        "yes" if method.causal else "no",
        ", ".join(method.families) or "all" + (f" but {', '.join(method.not_on)}" if method.not_on else ""),
        method.source,
        method.summary,
    )


def methods_table(methods: Iterable[MethodInfo]) -> Table:
    """The registry for a terminal."""
    return _table(_COLUMNS, map(_cells, methods))


def methods_markdown(methods: Iterable[MethodInfo]) -> str:
    """The registry as the Markdown table of the README."""
    return _markdown(_COLUMNS, map(_cells, methods))


_SERVED_COLUMNS = ("name", "in vLLM", "what it lacks")


def _served_cells(lacking: Mapping[str, str | None]) -> list[tuple[str, ...]]:
    return [(name, "yes" if why is None else "no", why or "") for name, why in lacking.items()]


def served_table(lacking: Mapping[str, str | None]) -> Table:
    """What an engine can serve and what the others lack, by method, for a terminal."""
    return _table(_SERVED_COLUMNS, _served_cells(lacking))


def served_markdown(lacking: Mapping[str, str | None]) -> str:
    """:func:`served_table` as Markdown."""
    return _markdown(_SERVED_COLUMNS, _served_cells(lacking))


def _table(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column)
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def _markdown(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [tuple(columns), tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
