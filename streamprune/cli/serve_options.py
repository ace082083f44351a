"""The options of ``streamprune serve`` alone, as Typer reads them off a signature."""

from __future__ import annotations

from pathlib import Path
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
MaxNewTokens = Annotated[
    int | None, typer.Option(help="Longest answer; default: 64, with --openai 256.", show_default=False)
]

_OPENAI = "With --openai"
OpenAI = Annotated[
    bool,
    typer.Option("--openai", help="Serve chat completions about videos instead, as OpenAI's clients ask."),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        help="What clients have to show; default: none on this machine, else made and printed.",
        envvar="STREAMPRUNE_API_KEY",
        show_envvar=True,
        rich_help_panel=_OPENAI,
    ),
]
MediaRoot = Annotated[
    Path | None,
    typer.Option(
        "--allowed-local-media-path",
        help="Folder whose videos file:// URLs may name; default: none may.",
        rich_help_panel=_OPENAI,
    ),
]
AllowHttps = Annotated[
    bool,
    typer.Option("--allow-https", help="Fetch videos from public https addresses.", rich_help_panel=_OPENAI),
]
Overrides = Annotated[
    bool,
    typer.Option(
        "--overrides/--no-overrides",
        help="Let requests choose recipe, keep_ratio, num_frames and fps.",
        rich_help_panel=_OPENAI,
    ),
]
NumFrames = Annotated[
    int | None,
    typer.Option(help="Frames looked at; default: what suits the model.", rich_help_panel=_OPENAI),
]
MaxVideoBytes = Annotated[
    str, typer.Option(help="Largest videos of one request, together.", rich_help_panel=_OPENAI)
]
MaxVideoSeconds = Annotated[float, typer.Option(help="Longest video.", rich_help_panel=_OPENAI)]
MaxFrames = Annotated[
    int, typer.Option(help="Most frames that a request may have looked at.", rich_help_panel=_OPENAI)
]
MaxQueue = Annotated[int, typer.Option(help="Requests that may wait.", rich_help_panel=_OPENAI)]
MaxRequestSeconds = Annotated[
    float, typer.Option(help="End a request that takes longer, waiting included.", rich_help_panel=_OPENAI)
]
CacheBytes = Annotated[
    str, typer.Option(help="Encoded videos kept for further questions.", rich_help_panel=_OPENAI)
]
