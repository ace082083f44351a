"""The options of ``streamprune stream`` that ``ask`` does not have, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    str,
    typer.Argument(help="A URL (rtsp, http, rtmp, udp, tcp), a camera's number, - for a pipe, or a file."),
]
Realtime = Annotated[
    bool, typer.Option("--realtime", help="Play a file at its own pace; default: as fast as the model reads.")
]
Memory = Annotated[str | None, typer.Option(help="How it is remembered, a memory method; default: tiered.")]
MemoryBytes = Annotated[str | None, typer.Option(help="Most memory, for ever; default: 256MB.")]
Fps = Annotated[float | None, typer.Option(help="Most frames per second to look at; default: 2.")]
Questions = Annotated[
    list[str] | None, typer.Option("--question", "-q", help="Ask this at the end; again for more.")
]
AskEvery = Annotated[float | None, typer.Option(help="Ask the questions every so many seconds, too.")]
Watch = Annotated[
    list[str] | None, typer.Option(help="Ask this whenever something changes; tell when it becomes yes.")
]
Save = Annotated[Path | None, typer.Option(help="Write what is remembered to this file at the end.")]
Load = Annotated[Path | None, typer.Option(help="Go on with what such a file holds.")]
Seconds = Annotated[float | None, typer.Option(help="End after so many seconds.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
