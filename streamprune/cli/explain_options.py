"""The options that ``streamprune explain`` has beside those of ``ask``, and where it writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from streamprune.errors import InvalidValueError

Question = Annotated[str, typer.Argument(help="One question, in quotes.")]
Page = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write a page (.html) that shows all of it.")
]
Png = Annotated[Path | None, typer.Option(help="Write the overview as a picture (.png).")]
Mp4 = Annotated[Path | None, typer.Option(help="Write the frames one after the other as a film (.mp4).")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the data behind all of them (.json).")]


def checked_targets(video: str, given: Mapping[str, Path | None]) -> list[Path]:
    """The files to write, by option; found out before the model works for nothing.

    Raises InvalidValueError without any, for a wrong ending, and for the video itself; StorageError where no
    file can be written.
    """
    from streamprune.report.explain.saving import check_target

    endings = {"--output": ".html", "--png": ".png", "--mp4": ".mp4", "--json": ".json"}
    targets = [check_target(name, path, endings[name]) for name, path in given.items() if path is not None]
    if not targets:
        raise InvalidValueError(
            "nothing would be written; give -o report.html, or any of --png, --mp4 and --json with a file"
        )
    for target in targets:
        if target.resolve() == Path(video).resolve():
            raise InvalidValueError(f"{str(target)!r} is the video itself; name another file to write")
    return targets
