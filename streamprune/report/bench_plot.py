"""What ``streamprune bench --stage end-to-end`` measured, as bars with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from streamprune.errors import InvalidValueError
from streamprune.report.bench_table import BELOW, LABELS
from streamprune.report.plot import new_figure, save_figure

_SHOWN = (
    "decode", "preprocess", "tower", "reduce_of_ttft", "prefill", "decode_step", "ttft", "kv_bytes",
    "prefill_flops",
)  # fmt: skip
FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Raise InvalidValueError unless ``path`` names a picture, MissingDependencyError without matplotlib."""
    if path.suffix not in FORMATS:
        raise InvalidValueError(f"plot must end in {' or '.join(FORMATS)}, got {str(path)!r}")
    new_figure()


def plot_end_to_end(record: Mapping[str, Any], path: Path) -> None:
    """Draw the ratios of every model and batch into ``path`` (.png or .svg), one below the other.

    Raises StorageError when the file cannot be written; see :func:`check_plot`.
    """
    check_plot(path)
    subjects: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        subjects.setdefault((row["model"], row["batch"]), []).append(row)
    figure = new_figure(11, 3.6 * len(subjects) + 0.6)
    every = figure.subplots(len(subjects), 1, squeeze=False)[:, 0]
    for axes, ((model, batch), rows) in zip(every, subjects.items(), strict=True):
        _draw(axes, rows)
        axes.set_title(f"{model}, batch {batch}, {rows[0]['tokens_in']} visual tokens")
    figure.suptitle(f"Ratio to stock; times are {record['clock']}; lines are intervals of the median")
    save_figure(figure, path)


def _draw(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Groups of bars, one group per ratio; no bar below resolution."""
    width = 0.8 / len(rows)
    for number, row in enumerate(rows):
        left = (number - (len(rows) - 1) / 2) * width
        found = [(place, row["ratios"][name]) for place, name in enumerate(_SHOWN)]
        known = [(place, ratio) for place, ratio in found if ratio is not None]
        middle = [ratio["median"] for _, ratio in known]
        axes.bar(
            [place + left for place, _ in known],
            middle,
            width,
            yerr=[
                [ratio["median"] - ratio["low"] for _, ratio in known],
                [ratio["high"] - ratio["median"] for _, ratio in known],
            ],
            capsize=2,
            label=f"{row['recipe']} {row['keep_ratio']:g}",
        )
        for place, ratio in found:
            if ratio is None:
                axes.text(
                    place + left, 0.02, BELOW, rotation=90, ha="center", va="bottom", fontsize=7, color="0.4"
                )
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(_SHOWN)), [LABELS[name][0].replace(", ", ",\n") for name in _SHOWN])
    axes.set_ylabel("ratio to stock")
    axes.legend(fontsize=8)
