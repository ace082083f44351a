"""The conversation of ``streamprune ask --chat``: a question a line, answers as they come."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from streamprune.errors import StreampruneError

if TYPE_CHECKING:
    from streamprune.pipelines.answers import Answer
    from streamprune.pipelines.chat import Chat

_HELP = "Ask, one question a line. /reset begins a new conversation, /quit (or the end of the input) ends."


def converse(chat: Chat, questions: Sequence[str], *, as_json: bool) -> None:
    """Answer ``questions``, then those on standard input; exit code 1 when a turn has failed.

    A turn that fails is told, and the conversation goes on without it.
    """
    failed = False
    for question in _asked(questions):
        if question == "/quit":
            break
        if question == "/reset":
            chat.reset()
            continue
        try:
            _turn(chat, question, as_json)
        except StreampruneError as error:
            failed = True
            _aside(f"Error: {error}", "red")
    if failed:
        raise typer.Exit(1)


def _asked(questions: Sequence[str]) -> Iterator[str]:
    """Questions of the command line, then of standard input, where empty lines are passed over."""
    yield from questions
    watched = sys.stdin.isatty()
    if watched:
        _aside(_HELP, "dim")
    while True:
        if watched:
            Console(stderr=True).print("> ", end="")
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _turn(chat: Chat, question: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps(chat.ask(question).to_dict()), flush=True)
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(question, style="bold"))
    with chat.ask(question, stream=True) as pieces:
        console.print("  ", end="")
        for piece in pieces:
            console.print(Text(piece, style="green"), end="")
        console.print()
        _cost(pieces.answer)


def _cost(answer: Answer) -> None:
    stats = answer.stats
    _aside(
        f"  {stats.prompt_tokens} tokens in, {stats.new_tokens} out, "
        f"{stats.prefill_ms + stats.generate_ms:.0f} ms, {stats.kv_bytes / 2**20:.1f} MB of cache",
        "dim",
    )


def _aside(text: str, style: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(text, style=style))
