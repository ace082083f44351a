"""The options of ``streamprune batch`` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Jobs = Annotated[
    Path, typer.Argument(help="Questions: one JSON object a line, with video, question and perhaps id.")
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Answers: JSON lines; what is there already stays.")
]
Batch = Annotated[int, typer.Option("--batch", help="Questions that go through the language model at once.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes with a model each. Default: one per CUDA device, else one per two cores.",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Of torch, and of the decoder, in each worker. Default: 1 with several workers."),
]
Engine = Annotated[
    Literal["local", "ray"], typer.Option(help="local: processes of this machine; ray: Ray Data.")
]
Address = Annotated[
    str | None, typer.Option(help="ray: a running cluster, HOST:PORT or auto. Default: one for this run.")
]
Limit = Annotated[int | None, typer.Option(help="Only so many jobs, from the first.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Ask once more what could not be answered before.")
]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep what a video file became, for other runs.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write figures and failures to this file.")]
