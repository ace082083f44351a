"""The options of ``streamprune bench``, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Stage = Annotated[
    str, typer.Option(help="What to time: pre-llm, in-llm, kv, llm (whole recipes), or tower-cache.")
]
Method = Annotated[
    list[str] | None,
    typer.Option(help="A method (llm: a recipe; tower-cache: keys or pixels); again for more. Default: all."),
]
KeepRatio = Annotated[
    list[float] | None,
    typer.Option(
        help="Share KEPT, in (0, 1]; again for more. Default: 0.1 for pre-llm, else 1, 0.5, 0.25, 0.1."
    ),
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
Device = Annotated[str | None, typer.Option(help="in-llm, kv, llm: as in ask.")]
Dtype = Annotated[str | None, typer.Option(help="in-llm, kv, llm: as in ask.")]
Frames = Annotated[int, typer.Option(help="tower-cache: frames of the static scene.")]
Questions = Annotated[
    int, typer.Option(help="tower-cache: questions about each kind of stream; 0 asks none.")
]
Repeats = Annotated[int, typer.Option(help="Not tower-cache: timings of which the median counts.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the record to this file.")]
