"""The options of ``streamprune tune``, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Asked = Annotated[
    list[str] | None,
    typer.Argument(
        help="Videos, with questions in quotes behind them; without questions loyalty counts.",
        show_default=False,
    ),
]
Questions = Annotated[
    Path | None, typer.Option(help="A file with one question a line, as for 'streamprune batch'.")
]
Recipe = Annotated[
    list[str] | None,
    typer.Option(help="A recipe's name or a .toml file; again for more. Default: a short list."),
]
KeepRatio = Annotated[
    list[float] | None,
    typer.Option(help="Share KEPT, in (0, 1]; again for more. Default: 0.5 0.35 0.25 0.15 0.1 0.05."),
]
NumFrames = Annotated[
    list[int] | None, typer.Option(help="Frames to look at; again to compare numbers of them.")
]
TtftMs = Annotated[float | None, typer.Option(help="Target: first token within so many milliseconds.")]
MemoryBytes = Annotated[
    str | None,
    typer.Option(help="Target: an answer needs at most so much, e.g. 256MB: its cache, on a GPU all."),
]
MaxLoss = Annotated[
    float | None,
    typer.Option(help="Target: at most so many points of accuracy (or loyalty) below the full model."),
]
Budget = Annotated[
    float | None,
    typer.Option(help="Most answers, as a share of asking every recipe every question. Default: 0.25."),
]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer.")]
Seed = Annotated[int, typer.Option(help="Of the order in which questions are asked.")]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the recipe that was found to this .toml file.")
]
Nearest = Annotated[
    bool, typer.Option("--nearest", help="Write the nearest recipe even if it misses the targets.")
]
Journal = Annotated[
    Path | None,
    typer.Option(
        help="Keep every answer in this file, to go on after an interruption or with other targets. Default: "
        "beside --output, until the search is done."
    ),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")]
Plot = Annotated[Path | None, typer.Option(help="Draw loss against time: .png or .svg.")]
