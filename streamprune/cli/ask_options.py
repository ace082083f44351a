"""The options of ``streamprune ask``, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Video = Annotated[str, typer.Argument(help="A video file or a folder of images.")]
Questions = Annotated[
    list[str] | None, typer.Argument(help="One or more questions, each in quotes.", show_default=False)
]
Model = Annotated[str, typer.Option(help="'embedded', 'embedded-qwen', a hub name, or a folder.")]
RecipeName = Annotated[
    str | None, typer.Option(help="A method's name or a .toml file; default: keep every token.")
]
KeepRatio = Annotated[float | None, typer.Option(help="Share of the visual tokens KEPT, in (0, 1].")]
KeepTokens = Annotated[int | None, typer.Option(help="Number of visual tokens kept.")]
Frames = Annotated[
    str | None, typer.Option(help="How frames are chosen: a frames method; see 'streamprune methods'.")
]
NumFrames = Annotated[int | None, typer.Option(help="Frames to look at; evenly spread without --frames.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second to look at.")]
StartSeconds = Annotated[float | None, typer.Option(help="Look from here.")]
EndSeconds = Annotated[float | None, typer.Option(help="Look until here.")]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer.")]
Temperature = Annotated[
    float, typer.Option(help="0: the most likely words; above: words drawn by their likelihood.")
]
TopP = Annotated[float | None, typer.Option(help="Draw among the likeliest words of this share.")]
TopK = Annotated[int | None, typer.Option(help="Draw among so many words.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1: say things again less often.")]
Seed = Annotated[int | None, typer.Option(help="Draw the same every time.")]
Stop = Annotated[list[str] | None, typer.Option(help="End an answer before this text; again for more.")]
Rule = Annotated[
    Literal["keep", "renumber", "clipped"] | None,
    typer.Option(help="Positions of kept tokens; default: the recipe's choice, or keep."),
]
MaxGap = Annotated[
    int | None, typer.Option(help="With --positions clipped: most positions left empty in a row.")
]
TextAfter = Annotated[Literal["stock", "max"], typer.Option(help="Where text behind a video starts.")]
Backend = Annotated[str, typer.Option(help="pyav, opencv, decord or torchcodec.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep what a video file became, for the next time.")
]
CacheDir = Annotated[
    Path | None, typer.Option(help="Where; default: $STREAMPRUNE_CACHE, or the user's cache folder.")
]
CacheBytes = Annotated[str, typer.Option(help="At most so much; what was not used for longest goes.")]
Compare = Annotated[str | None, typer.Option(help="Also answer with this recipe, at the same budget.")]
Chat = Annotated[
    bool, typer.Option("--chat", help="One conversation; more questions are read from standard input.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON: one object, with --chat one a line.")]
