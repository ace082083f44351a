"""The options of ``streamprune bench``, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Stage = Annotated[
    str | None,
    typer.Option(
        help="What to time: end-to-end, pre-llm, in-llm, kv, llm (whole recipes), or tower-cache. Default: "
        "end-to-end when a recipe or model is named, else pre-llm.",
        show_default=False,
    ),
]
Method = Annotated[
    list[str] | None,
    typer.Option(help="A method (llm: a recipe; tower-cache: keys or pixels); again for more. Default: all."),
]
Recipe = Annotated[
    list[str] | None,
    typer.Option(help="end-to-end, llm: a recipe or .toml file; again for more. Default: streamprune."),
]
KeepRatio = Annotated[
    list[float] | None,
    typer.Option(
        help="Share KEPT, in (0, 1]; again for more. Default: 0.1 for pre-llm, 0.25 and 0.1 for end-to-end, "
        "else 1, 0.5, 0.25, 0.1."
    ),
]
Model = Annotated[
    list[str] | None,
    typer.Option(help="end-to-end: a model as in ask; again for more. Default: embedded."),
]
Family = Annotated[
    list[str] | None,
    typer.Option(help="end-to-end: a small model of this family with random weights; again for more."),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(help="end-to-end: a model of published sizes with random weights, e.g. qwen2.5-vl-7b."),
]
Layers = Annotated[
    int | None,
    typer.Option(help="With --shape: only its first layers; the whole is extrapolated and marked as such."),
]
Batch = Annotated[
    list[int] | None, typer.Option(help="end-to-end: videos asked about at once; again for more. Default: 1.")
]
Video = Annotated[Path | None, typer.Option(help="end-to-end: a video file. Default: one is made.")]
NumFrames = Annotated[
    int | None, typer.Option(help="end-to-end: frames to look at. Default: 64, of a --shape 8.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(help="end-to-end: length of every answer. Default: 33, of a --shape 9.")
]
Scenes = Annotated[
    list[int] | None,
    typer.Option(help="pre-llm: alike runs among the 32 frames; again for more. Default: 8, 32."),
]
Tokens = Annotated[int, typer.Option(help="in-llm, kv, llm: visual tokens of the clip.")]
Size = Annotated[
    str | None,
    typer.Option(
        help="in-llm, kv, llm: the language model: tiny, mid (default) or 7b. tower-cache: the tower: tiny "
        "or so400m (default)."
    ),
]
Device = Annotated[str | None, typer.Option(help="Not pre-llm, tower-cache: as in ask.")]
Dtype = Annotated[str | None, typer.Option(help="Not pre-llm, tower-cache: as in ask.")]
Frames = Annotated[int, typer.Option(help="tower-cache: frames of the static scene.")]
Questions = Annotated[
    int, typer.Option(help="tower-cache: questions about each kind of stream; 0 asks none.")
]
Repeats = Annotated[
    int,
    typer.Option(help="Not tower-cache: timings of which the median counts; end-to-end: pairs at least."),
]
MaxSeconds = Annotated[
    float, typer.Option(help="end-to-end: of each model, begin no pairs beyond --repeats after so long.")
]
Precision = Annotated[
    float, typer.Option(help="end-to-end: intervals of +- this share of their median are narrow enough.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")]
Plot = Annotated[Path | None, typer.Option(help="end-to-end: draw the ratios into this .png or .svg.")]
Against = Annotated[
    str | None,
    typer.Option(help="Show what changed since this record of a bench, or since the stored 'goals'."),
]
FailAbove = Annotated[
    float | None,
    typer.Option(help="With --against: exit with 1 if a ratio is worse by more than so many percent."),
]
