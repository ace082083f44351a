"""One run of ``streamprune stream`` over a source that is lost, and what a terminal shows of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from rich.console import Console

import streamprune as sp
from streamprune.cli.stream_report import JsonReport, Opened
from streamprune.cli.stream_session import Schedule, Session
from streamprune.cli.stream_view import StreamView
from streamprune.errors import SourceFormatError, SourceTimeoutError
from streamprune.pipelines.live import LiveStream
from streamprune.readers.options import ReadOptions
from tests.readers.feeds import Script, scripted, shown

ONE = ReadOptions(prefetch_bytes=1)  # frame that waits
LOST = SourceTimeoutError("script: no answer in time")


@pytest.fixture
def live() -> Iterator[LiveStream]:
    with sp.load("embedded").open_stream(memory_bytes="32MB") as stream:
        yield stream


def test_a_gap_is_told_and_questions_come_at_the_end(
    live: LiveStream, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Script([shown(0, 0.0), shown(40, 1.0), LOST])
    source = scripted([before, Script([shown(80, 0.0), shown(120, 1.0)])], options=ONE)
    Session(live, source, Schedule(questions=("what is seen?",)), JsonReport(), None).run()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines if line["event"] not in ("lost", "stats")] == ["back", "answer"]
    back = next(line for line in lines if line["event"] == "back")
    assert back["text"] == f"back after {back['seconds']:.1f} s"
    assert back["seconds"] == source.health().gaps[0].seconds
    assert live.stats().frames.seen == 4


def test_a_source_that_fails_ends_it_and_nothing_else(live: LiveStream) -> None:
    source = scripted(
        [Script([shown(0, 0.0), SourceFormatError("script: not a picture")])], returns=False, options=ONE
    )
    session = Session(live, source, Schedule(questions=("what is seen?",)), JsonReport(), None)
    with pytest.raises(SourceFormatError, match="script: not a picture"):
        session.run()
    assert live.ask("what is seen?").text


def test_a_terminal_shows_gauges_losses_and_the_last_answers(live: LiveStream) -> None:
    console = Console(width=100, force_terminal=True, record=True)
    view = StreamView(console)
    source = scripted([Script([shown(0, 0.0), shown(40, 1.0)], finite=True)], options=ONE)
    view.opened(Opened("rtsp://***@cam/x", (96, 128), live.describe()))
    session = Session(live, source, Schedule(questions=("what is seen?",)), view, None)
    with view.running():
        session.run()
        view.alert("is there a person?", "yes", 1.0)
        source.health()
        console.print(view.panel(session.moment()))
    view.closed(session.moment())
    said = console.export_text()
    for words in (
        "rtsp://***@cam/x (96x128) with embedded, recipe none, memory tiered", "2 of 2 frames", "kept",
        "reused", "memory", "of 32 MB", "recent", "what is seen?", "is there a person?  yes", "type a",
    ):  # fmt: skip
        assert words in said, words
