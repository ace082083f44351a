"""The options of ``streamprune eval``, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Suite = Annotated[
    str,
    typer.Option(
        help="embedded (or offline), long, grounding, reading, counting, motion; stream (or needle); own; or "
        "a published set, e.g. videomme."
    ),
]
Folder = Annotated[Path | None, typer.Option(help="Published sets: the local folder with one.")]
Subset = Annotated[str | None, typer.Option(help="Published sets: one of the set's parts alone.")]
Subtitles = Annotated[
    bool,
    typer.Option("--subtitles", help="Published sets: subtitles before every question, where there are."),
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Published sets: leave out questions whose video is not there."),
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        help="A recipe's name, a .toml file, or 'oracle'; again for more. Default: all of --stage; of videos "
        "in files 'streamprune'."
    ),
]
StageName = Annotated[
    str, typer.Option(help="Whose methods are measured where no recipe is named: pre_llm, in_llm or kv.")
]
KeepRatios = Annotated[
    list[float] | None,
    typer.Option(
        help="Share KEPT, in (0, 1]; again for more. Default: 0.5, 0.25, 0.1, 0.05; of videos in files 0.25."
    ),
]
Baselines = Annotated[
    bool, typer.Option("--baselines/--no-baselines", help="What has to be beaten at as many tokens.")
]
Questions = Annotated[
    str | None,
    typer.Option(
        help="How many of a made-up suite: default 2000, of streams 200. Of the suite own: the file of them, "
        "one JSON object a line."
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Ask so many of the questions only, evenly spread, the same every time.")
]
NumFrames = Annotated[
    int | None,
    typer.Option(help="Frames of every clip or video, default 16, of long 64; or of a stream, default 1800."),
]
Fps = Annotated[float | None, typer.Option(help="Videos in files: frames a second, at most --num-frames.")]
MaxNewTokens = Annotated[int | None, typer.Option(help="Videos in files: longest answer, default 32.")]
Memory = Annotated[
    list[str] | None,
    typer.Option(help="stream: a memory, keep-all, evidence-only or blind; again for more. Default: all."),
]
MemoryBytes = Annotated[
    list[str] | None,
    typer.Option(help="stream: what it may hold; again for more. Default: 8MB, 32MB, 128MB."),
]
Streams = Annotated[int | None, typer.Option(help="stream: so many share the questions; default 2.")]
Model = Annotated[
    str, typer.Option(help="'embedded', 'embedded-qwen', a hub name or a folder; of made-up suites one that "
                      "was trained in the same world.")
]  # fmt: skip
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; made-up suites: cpu.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Answers = Annotated[
    Path | None,
    typer.Option(
        help="One JSON line per answer, there as soon as it is given; a run that was stopped goes on with it."
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")]
Plot = Annotated[Path | None, typer.Option(help="Draw accuracy against kept tokens: .png or .svg.")]
