"""The options of ``streamprune serve`` alone, as Typer reads them off a signature."""

from __future__ import annotations

from typing import Annotated

import typer

Source = Annotated[
    str | None,
    typer.Option(
        help="Show this to everybody, a URL, a camera's number or a file; default: each visitor's own camera."
    ),
]
Fps = Annotated[float, typer.Option(help="Most pictures per second to look at; visitors may choose fewer.")]
Host = Annotated[
    str, typer.Option(help="Address to listen on; any but this machine's own loopback needs a token.")
]
Port = Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")]
Token = Annotated[
    str | None, typer.Option(help="What visitors have to show; default: made and printed where needed.")
]
MaxUploadBytes = Annotated[str, typer.Option(help="Largest picture that is taken in.")]
MaxSessions = Annotated[int, typer.Option(help="Most pages at once, each with a stream of its own.")]
IdleSeconds = Annotated[float, typer.Option(help="Close a stream that was not used for so many seconds.")]
