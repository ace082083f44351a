"""``streamprune serve``: what it refuses, and one run from the command line to Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from streamprune.cli import app, serve
from streamprune.web.options import WebOptions
from streamprune.web.server import listen
from tests.web.page_server import PageServer, hear, say

CLIP = Path(__file__).resolve().parents[2] / "demos" / "clips" / "square_parade.mp4"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--port", "70000"], 2, "port must be in 0..65535, got 70000"),
        (["--token", "a b"], 2, "token must be letters, digits and -._~"),
        (["--max-upload-bytes", "much"], 2, "max_upload_bytes must be bytes"),
        (["--memory-bytes", "much"], 2, "memory_bytes must be bytes"),
        (["--memory", "nope"], 2, "unknown memory method 'nope'"),
        (["--recipe", "fastvid"], 2, "by frames that come later"),
        (["--max-sessions", "0"], 2, "max_sessions must be at least 1"),
        (["--fps", "0"], 2, "fps must be in"),
        (["--port", "0", "--source", "nope.mp4"], 1, "nope.mp4: no such file or folder"),
        (["--port", "0", "--model", "/nowhere"], 1, "/nowhere"),
        (["--port", "0", "--memory-bytes", "10kB"], 2, "memory_bytes=10,000 is too small"),
    ],
)
def test_what_cannot_be_served_is_told(arguments: list[str], code: int, reason: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert (result.exit_code, reason in result.stderr) == (code, True), result.stderr


def test_a_port_in_use_is_told_before_a_model_is_loaded() -> None:
    with listen(WebOptions(port=0)) as other:
        port = other.getsockname()[1]
        result = CliRunner().invoke(app, ["serve", "--port", str(port), "--model", "/nowhere"])
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in result.stderr


def test_without_the_extra_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_NEEDED", ("starlette", "no_such_package"))
    result = CliRunner().invoke(app, ["serve"])
    assert result.exit_code == 1
    assert "pip install 'streamprune[web]'" in result.stderr


def _visit(server: PageServer, seen: dict[str, Any]) -> None:
    """Look at the page as soon as there is one, ask, and press Ctrl-C."""
    deadline = time.monotonic() + 60
    while "refused" not in seen and time.monotonic() < deadline:
        with suppress(ConnectionError):
            seen["refused"] = server.get("/")[0].status
        time.sleep(0.02)
    with server.connect("?token=short") as page:
        seen["mode"] = hear(page, "hello")["mode"]
        while not isinstance(page.recv(timeout=30), bytes):
            pass
        say(page, type="ask", id="1", question="which color is the square?")
        seen["answer"] = hear(page, "answered")["state"]
    signal.raise_signal(signal.SIGINT)


def test_a_source_is_served_until_it_is_interrupted() -> None:
    with listen(WebOptions(port=0)) as free:
        port = free.getsockname()[1]
    options = ["--source", str(CLIP), "--memory-bytes", "64MB", "--token", "short"]
    seen: dict[str, Any] = {}
    visitor = threading.Thread(target=_visit, args=(PageServer(port), seen), name="visitor")
    visitor.start()
    result = CliRunner().invoke(app, ["serve", "--port", str(port), "--host", "0.0.0.0", *options])
    visitor.join(60)
    assert seen == {"refused": 401, "mode": "source", "answer": "done"}
    assert result.exit_code == 0
    assert f"Open http://127.0.0.1:{port}/?token=short in a browser" in result.stdout
    assert "The token has fewer than 16 characters" in result.stderr
    assert "closed" in result.stderr
    with pytest.raises(ConnectionRefusedError):
        PageServer(port).get("/")
