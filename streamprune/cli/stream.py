"""``streamprune stream``: watch a camera, a stream or a file; ask at any moment."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from streamprune.checks import check_count
from streamprune.cli import ask_options as asking
from streamprune.cli import stream_options as options
from streamprune.cli.app import app, progress_bars
from streamprune.cli.ask_output import print_warnings
from streamprune.cli.model_choice import ModelChoice
from streamprune.cli.stream_opening import Opening, check_target
from streamprune.cli.typed_lines import typed_lines
from streamprune.errors import InvalidValueError

if TYPE_CHECKING:
    from streamprune.cli.stream_report import StreamReport
    from streamprune.cli.stream_session import Schedule
    from streamprune.cli.typed_lines import TypedLines
    from streamprune.pipelines.live import LiveStream
    from streamprune.readers import Source

_STDIN = "-"


@app.command()
def stream(
    source: options.Source,
    realtime: options.Realtime = False,
    model: asking.Model = "embedded",
    recipe: asking.RecipeName = None,
    keep_ratio: asking.KeepRatio = None,
    keep_tokens: asking.KeepTokens = None,
    memory: options.Memory = None,
    memory_bytes: options.MemoryBytes = None,
    fps: options.Fps = None,
    questions: options.Questions = None,
    ask_every: options.AskEvery = None,
    watch: options.Watch = None,
    max_new_tokens: asking.MaxNewTokens = 64,
    seconds: options.Seconds = None,
    save: options.Save = None,
    load: options.Load = None,
    device: asking.Device = None,
    dtype: asking.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Watch a camera, a stream or a file in memory that never grows, and ask about it at any moment.

    Questions can be typed while it runs, one a line; q ends, as Ctrl-C does.
    """
    from streamprune.cli.stream_session import Schedule
    from streamprune.pipelines.request import read_questions

    if ask_every is not None and not questions:
        raise InvalidValueError("--ask-every repeats questions; give at least one with --question")
    shown = not as_json and sys.stdout.isatty()
    check_count("max_new_tokens", max_new_tokens)
    schedule = Schedule(
        questions=read_questions(questions) if questions else (),
        ask_every=_positive("ask_every", ask_every),
        watched=read_questions(watch) if watch else (),
        seconds=_positive("seconds", seconds),
        stay=shown and sys.stdin.isatty() and not (questions or watch or seconds),
        max_new_tokens=max_new_tokens,
    )
    how = {
        "recipe": recipe, "keep_ratio": keep_ratio, "keep_tokens": keep_tokens, "memory": memory,
        "memory_bytes": memory_bytes, "fps": fps,
    }  # fmt: skip
    opening = Opening({name: value for name, value in how.items() if value is not None}, max_new_tokens, load)
    opening.check()
    if save is not None:
        check_target(save)
    with ExitStack() as held:
        held.enter_context(end_as_interrupt())
        live, frames = held.enter_context(
            _watching(_place(source), realtime, opening, ModelChoice(model, device, dtype))
        )
        typed = None if source == _STDIN else held.enter_context(typed_lines(by_key=shown))
        failed = _run(live, frames, schedule, _report(shown, as_json), typed, save)
    if failed:
        raise typer.Exit(1)


@contextmanager
def end_as_interrupt() -> Iterator[None]:
    """Let a request to end do what Ctrl-C does: what is remembered must not be lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _watching(
    place: str | int, realtime: bool, opening: Opening, model: ModelChoice
) -> Iterator[tuple[LiveStream, Source]]:
    """The stream and what goes into it.

    The source is opened first, as a misspelt path should not wait for a model; a file's own pace begins when
    there is a model to keep it.
    """
    from streamprune.readers import open_source
    from streamprune.readers.address import read_address

    arrives = read_address(place) is not None
    # no queue of decoded pictures: they would be memory that nobody counts
    plain: dict[str, Any] = {"prefetch_bytes": 0}
    with ExitStack() as held:
        source = held.enter_context(open_source(place, fps=opening.fps if arrives else None, **plain))
        with progress_bars() as bars:
            vlm = model.load(bars)
        live = held.enter_context(opening.begin(vlm, source.info))
        if realtime and not arrives:
            source = held.enter_context(open_source(place, realtime=True, fps=opening.fps, **plain))
        yield live, source


def _run(
    live: LiveStream,
    source: Source,
    schedule: Schedule,
    report: StreamReport,
    typed: TypedLines | None,
    save: Path | None,
) -> bool:
    """Watch to the end, and write what is remembered whatever that was; whether a question failed."""
    from streamprune.cli.stream_report import Opened
    from streamprune.cli.stream_session import Session

    with report.running():
        info = source.info
        report.opened(Opened(info.source, (info.rows, info.cols), live.describe()))
        session = Session(live, source, schedule, report, typed)
        try:
            session.run()
        finally:
            if save is not None:
                live.save(save)
                report.note("saved", f"saved {save}", path=str(save))
            report.closed(session.moment())
    if source.report.damaged:
        print_warnings(info.source, source.report.lines())
    return session.failed


def _report(shown: bool, as_json: bool) -> StreamReport:
    from streamprune.cli.stream_report import JsonReport, PlainReport
    from streamprune.cli.stream_view import StreamView

    return JsonReport() if as_json else StreamView() if shown else PlainReport()


def _place(source: str) -> str | int:
    """A camera's number, unless a file is called so."""
    return int(source) if source.isdecimal() and not Path(source).exists() else source


def _positive(name: str, seconds: float | None) -> float | None:
    from streamprune.readers.base import check_seconds

    if seconds is not None and check_seconds(name, seconds) == 0:
        raise InvalidValueError(f"{name} must be above 0, got {seconds:g}")
    return seconds
