"""The application itself: errors to exit codes, the version, progress bars.

Exit codes: 0 done, 1 failed, 2 asked wrongly, 130 interrupted.
"""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text
from typer.core import TyperGroup

import streamprune
from streamprune.errors import StorageError, StreampruneError, UsageError

_UNHEARD = logging.NullHandler()


class _ErrorGroup(TyperGroup):
    """Turns our exceptions into one clear line and an exit code, in-process runs included."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk or a closed pipe shows here, while it can still be reported
            return result
        except UsageError as error:
            raise _told(error, 2) from error
        except StreampruneError as error:
            raise _told(error, 1) from error
        except KeyboardInterrupt:
            raise _told("interrupted", 130) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # typer ends quietly when nobody reads any more
            raise _told(StorageError(f"cannot write the output: {error.strerror or error}"), 1) from error


def _told(problem: StreampruneError | str, code: int) -> typer.Exit:
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(f"Error: {problem}", style="red"))
    return typer.Exit(code)


app = typer.Typer(
    name="streamprune",
    cls=_ErrorGroup,
    help="Ask videos at a fraction of the tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"streamprune {streamprune.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Ask videos at a fraction of the tokens."""
    # what the readers log reaches the user once, as a warning beside the answer
    logging.getLogger("streamprune").addHandler(_UNHEARD)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on stderr when somebody watches; calls with (stage, done, total)."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    tasks: dict[str, Any] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bar.add_task(stage, total=total)
        bar.update(tasks[stage], completed=done, total=total)

    with bar:
        yield report
