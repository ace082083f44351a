"""``streamprune stream``, in-process and on a terminal: right answers, a clean end, clear messages."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from streamprune.cli import app
from streamprune.cli.stream import end_as_interrupt
from streamprune.cli.typed_lines import TypedLines
from tests.test_cli import CLIP, ROOT, failed_with

OTHER = ROOT / "demos" / "clips" / "hidden_digit.mp4"
SMALL = ("--memory-bytes", "32MB")
RED = "which shape is red?"


def stream(*arguments: str | Path, typed: str = "") -> Result:
    return CliRunner().invoke(app, ["stream", *map(str, arguments)], input=typed)


def told(*arguments: str | Path, typed: str = "") -> list[dict[str, Any]]:
    """The JSON lines of a run that ends well."""
    result = stream(*arguments, *SMALL, "--json", typed=typed)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def events(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == kind]


def test_a_film_is_watched_and_asked_at_its_end() -> None:
    asked = json.loads(OTHER.with_suffix(".json").read_text())["questions"]
    questions = [argument for row in asked for argument in ("--question", row["question"])]
    result = stream(OTHER, *SMALL, *questions)
    assert result.exit_code == 0, result.output
    first, *lines = result.stdout.splitlines()
    assert first == f"watching {OTHER} (192x192) with embedded, recipe none, memory tiered"
    assert [line.strip() for line in lines[1:-1:2]] == [row["answer"] for row in asked]
    assert "of 80 frames looked at, kept 100% of the tokens" in lines[-1]


def test_questions_come_again_as_the_film_goes_on() -> None:
    lines = told(CLIP, "-q", RED, "--ask-every", "3", "--seconds", "7")
    answers = events(lines, "answer")
    assert [answer["at_seconds"] for answer in answers] == [3.0, 6.0, 6.9]
    assert answers[-1]["text"] == "diamond"
    (end,) = events(lines, "end")
    assert end["frames"]["seen"] == 70
    assert sum(end["held"].values()) <= end["memory_bytes"] == 32_000_000
    assert end["health"] is None
    assert lines[0]["settings"]["memory"]["reproduces"]


def test_typed_questions_are_answered_when_there_is_something_to_see() -> None:
    lines = told(CLIP, "--realtime", "--seconds", "1.5", typed=f"\n  {RED}  \n")
    (answer,) = events(lines, "answer")
    assert answer["question"] == RED
    assert not answer.get("error")
    (end,) = events(lines, "end")
    assert end["health"]["delivered"] == end["frames"]["seen"] > 0
    assert end["latency_seconds"] > 0


def test_q_ends_before_the_film_does() -> None:
    lines = told(CLIP, "--realtime", "-q", RED, typed="q\n")
    assert events(lines, "answer") == []
    assert events(lines, "end")[0]["newest_seconds"] in (None, *(step / 2 for step in range(8)))


def test_what_is_watched_is_told_when_it_becomes_yes() -> None:
    question = "can a pink triangle be seen?"
    lines = told(OTHER, "--watch", question, "--realtime", "--seconds", "1.5")
    assert {(line["question"], line["text"]) for line in events(lines, "alert")} == {(question, "yes")}


def test_what_was_saved_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    saved = told(CLIP, "--save", state)
    assert events(saved, "saved")[0]["path"] == str(state)
    result = stream(CLIP, "--load", state, "--seconds", "0.3", "-q", RED, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[0]["settings"]["memory_bytes"] == 32_000_000
    assert events(lines, "answer")[0]["text"] == "diamond"
    (end,) = events(lines, "end")
    assert (end["frames"]["seen"], end["remembers_from_seconds"]) == (83, 0.0)
    state.write_bytes(state.read_bytes()[:-100])
    failed_with(stream(CLIP, "--load", state), 1, str(state))


def test_a_question_that_fails_is_told_and_the_rest_goes_on() -> None:
    result = stream(CLIP, *SMALL, "-q", "red " * 2000, "-q", RED, "--json", "--max-new-tokens", "100")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[0])["settings"]["answer_tokens"] == 192 + 100
    first, second = events([json.loads(line) for line in result.stdout.splitlines()], "answer")
    assert "answer_tokens" in first["error"]
    assert second["text"] == "diamond"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fps", "0"], ["fps", "0"]),
        (["--memory", "tierd"], ["memory method 'tierd'", "Did you mean"]),
        (["--memory-bytes", "much"], ["memory_bytes must be bytes", "'64MB'", "'much'"]),
        (["--memory-bytes", "1MB"], ["memory_bytes"]),
        (["--recipe", "fastvidd"], ["Did you mean 'fastvid'"]),
        (["--recipe", "stc", "--keep-ratio", "2"], ["keep_ratio", "(0, 1]"]),
        (["--ask-every", "5"], ["--ask-every repeats questions", "--question"]),
        (["-q", "why?", "--ask-every", "0"], ["ask_every must be above 0"]),
        (["-q", " "], ["question must not be empty"]),
        (["--watch", " "], ["question must not be empty"]),
        (["--seconds", "0"], ["seconds must be above 0"]),
        (["--seconds", "nan"], ["seconds must be a finite number"]),
        (["--max-new-tokens", "0"], ["max_new_tokens must be at least 1"]),
        (["--save", "/nowhere/at/all/state"], ["--save /nowhere/at/all/state", "does not exist"]),
        (["--save", "/"], ["--save /", "this is a folder"]),
        (["--load", "/nowhere/state"], ["--load /nowhere/state: no such file"]),
        (["--load", "x", "--memory", "rekv", "--fps", "3"], ["--load goes on", "leave out --memory, --fps"]),
        (["--no-such-option"], ["--no-such-option"]),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], words: list[str]) -> None:
    failed_with(stream(CLIP, *arguments), 2, *words)


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("nowhere.mp4", 1, ["nowhere.mp4: no such file"]),
        ("77", 1, ["camera 77: /dev/video77 does not exist"]),
        ("rtsp://bob:s3cret@127.0.0.1:9/x", 1, ["rtsp://***@127.0.0.1:9/x: nothing listens there"]),
        ("rtsp://", 2, ["the host is missing"]),
        ("gopher://h/x", 2, ["a URL must begin with one of rtsp://"]),
        (str(ROOT / "Makefile"), 1, ["Makefile: not a readable video"]),
    ],
)
def test_sources_that_cannot_be_opened(source: str, code: int, words: list[str]) -> None:
    result = stream(source)
    failed_with(result, code, *words)
    assert "s3cret" not in result.output


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(what a person has, what a program has) of a terminal."""
    person, program = pty.openpty()
    yield person, program
    for descriptor in (person, program):
        os.close(descriptor)


def _until(person: int, wanted: str, seconds: float = 60) -> str:
    """What the screen shows until ``wanted`` is on it."""
    seen, end = "", time.monotonic() + seconds
    while wanted not in seen and time.monotonic() < end:
        if select.select([person], [], [], 0.5)[0]:
            seen += os.read(person, 65536).decode(errors="replace")
    assert wanted in seen, seen
    return seen


def test_a_question_is_typed_at_a_terminal_and_an_interrupt_ends_it_cleanly(
    terminal: tuple[int, int], tmp_path: Path
) -> None:
    person, program = terminal
    process = subprocess.Popen(
        [sys.executable, "-m", "streamprune", "stream", str(CLIP), *SMALL],
        stdin=program, stdout=program, stderr=program, start_new_session=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
    )  # fmt: skip
    _until(person, "7.9 s")
    os.write(person, b"which shape is redd\x7f")
    _until(person, "> which shape is red▏")
    os.write(person, b"?\r")
    _until(person, "diamond")
    process.send_signal(signal.SIGINT)
    seen = _until(person, "frames looked at")
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in seen


def test_a_request_to_end_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), end_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def _typed(*pieces: bytes, keys: bool) -> TypedLines:
    """All of ``pieces`` typed, and read."""
    coming = iter([*pieces, b""])
    typed = TypedLines(lambda size: next(coming), lambda: None, keys=keys)
    typed.close()
    return typed


def test_lines_are_cut_as_they_come() -> None:
    typed = _typed(b"was ist r", "öt".encode()[:2], "öt".encode()[2:], b"?\r\n\n  q\nlast", keys=False)
    assert list(typed.take()) == ["was ist röt?", "q", "last"]
    assert typed.ended


def test_keys_rub_out_and_end() -> None:
    typed = _typed(b"wrong\x15", b"whyy\x7f?\r", b"left\x04never\r", keys=True)
    assert list(typed.take()) == ["why?"]
    assert (typed.ended, typed.draft) == (True, "left")
