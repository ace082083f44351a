"""What ``streamprune bench --stage end-to-end`` measured, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]

BELOW = "below resolution"
# recipes that stand beside each other in one table
_BESIDE = 4
# ratio -> label, where the stock model's own figure is, and what it is counted in
LABELS: dict[str, tuple[str, str, str]] = {
    "decode": ("decode", "milliseconds", "ms"),
    "preprocess": ("preprocess", "milliseconds", "ms"),
    "tower": ("tower", "milliseconds", "ms"),
    "reduce_of_ttft": ("reduce, of stock TTFT", "", ""),
    "prefill": ("prefill", "milliseconds", "ms"),
    "decode_step": ("decode step", "milliseconds", "ms"),
    "ttft": ("TTFT from file", "milliseconds", "ms"),
    "frames_per_second": ("frames/s", "per_second", ""),
    "tokens_per_second": ("tokens/s", "per_second", ""),
    "kv_bytes": ("KV bytes", "amounts", "B"),
    "peak_bytes": ("peak memory", "amounts", "B"),
    "prefill_flops": ("prefill FLOPs", "amounts", "FLOP"),
    "decode_flops": ("decode FLOPs", "amounts", "FLOP"),
}
_STEPS = {"B": (1024, ("B", "KiB", "MiB", "GiB")), "FLOP": (1000, ("", "K", "M", "G", "T", "P"))}


def end_to_end_tables(record: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    """For each model and batch one table or more with a title: a line per stage, a column per recipe."""
    subjects: dict[tuple[str, int], list[Row]] = {}
    for row in record["rows"]:
        subjects.setdefault((row["model"], row["batch"]), []).append(row)
    for (model, batch), rows in subjects.items():
        for start in range(0, len(rows), _BESIDE):
            yield _table(f"{model}, batch {batch}", rows[start : start + _BESIDE])
        if rows[0]["extrapolated"] is not None:
            for start in range(0, len(rows), _BESIDE):
                yield _whole(f"{model}, batch {batch}", rows[start : start + _BESIDE])


def _table(subject: str, rows: Sequence[Row]) -> tuple[str, Table]:
    table = _empty(rows)
    table.add_row("visual tokens kept", f"{rows[0]['tokens_in']}", *(f"{row['tokens_kept']}" for row in rows))
    for name, (label, where, unit) in LABELS.items():
        stock = rows[0][where].get(name) if where else None
        if name == "peak_bytes" and stock is None:
            table.add_row(label, "not measured", *("" for _ in rows))
            continue
        shown = "" if stock is None else _amount(stock["stock"], unit)
        table.add_row(label, shown, *(ratio_text(row["ratios"][name]) for row in rows))
    table.add_row("pairs", "", *(str(row["pairs"]) for row in rows))
    return f"{subject}: {rows[0]['frames']} frames of tokens, {rows[0]['tokens_in']} visual tokens", table


def _whole(subject: str, rows: Sequence[Row]) -> tuple[str, Table]:
    """Times of all layers, from those of a slice."""
    about = rows[0]["extrapolated"]
    (layers, all_layers), (tower, whole_tower) = about["layers"], about["tower_layers"]
    table = _empty(rows)
    told = [row["extrapolated"] for row in rows]
    stock = next((one for one in told if "ratios" in one), None)
    if stock is not None:
        for name, sides in stock["milliseconds"].items():
            cells = [ratio_text(one["ratios"][name]) if "ratios" in one else "left out" for one in told]
            table.add_row(LABELS[name][0], _amount(sides["stock"], "ms"), *cells)
    for row, one in zip(rows, told, strict=True):
        if "left_out" in one:
            table.caption = f"{row['recipe']} is left out: {one['left_out']}."
    title = f"{subject}: EXTRAPOLATED from {layers} to {all_layers} layers, tower {tower} to {whole_tower}"
    return title, table


def _empty(rows: Sequence[Row]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("ratio to stock")
    table.add_column("stock", justify="right")
    for row in rows:
        apart = "" if row["together"] or row["batch"] == 1 else ", one by one"
        table.add_column(f"{row['recipe']} {row['keep_ratio']:g}{apart}", justify="right")
    return table


def ratio_text(ratio: Mapping[str, float] | None) -> str:
    """The median and its interval; an amount that never varies has none."""
    if ratio is None:
        return BELOW
    if ratio["low"] == ratio["high"]:
        return f"{ratio['median']:.3f}"
    return f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"


def _amount(value: float, unit: str) -> str:
    if unit not in _STEPS:
        digits = 1 if value >= 10 else 3
        return f"{value:,.{digits}f} {unit}".rstrip()
    step, names = _STEPS[unit]
    power = 0
    while value >= step and power + 1 < len(names):
        value, power = value / step, power + 1
    return f"{value:,.1f} {names[power]}".rstrip()


def notes(record: Mapping[str, Any]) -> str:
    """What the figures are, in a few sentences under the tables."""
    confidences = [
        ratio["confidence"] for row in record["rows"] for ratio in row["ratios"].values() if ratio is not None
    ]
    sure = min(confidences, default=0.0)
    interval = "95 % interval" if sure >= 0.95 else f"interval that is only {sure:.0%} sure: too few pairs"
    lines = [
        f"Ratios are medians over pairs of answers, one stock and one with the recipe, taken in turn; in "
        f"brackets the {interval}.",
        f"Times are {record['clock']}; frames/s and tokens/s of stock are of elapsed time.",
        f"'{BELOW}': under 20 ms in the median on one of the two sides, so that no ratio is given.",
        "FLOPs are those of the language model and are no times.",
    ]
    if record["clock"] != "CUDA events":
        lines.append(
            "Peak memory is measured on CUDA only: elsewhere memory that earlier work left behind is used "
            "again unseen. KV bytes are storage really held."
        )
    if any(row["extrapolated"] is not None for row in record["rows"]):
        lines.append(
            "A slice of the model was measured. EXTRAPOLATED: what was spent inside its layers, times the "
            "number of all layers over that of the slice, plus what was spent around them."
        )
    return "\n".join(lines)
