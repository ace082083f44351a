"""The shown programs that watch a camera run, on a film and on a server here, and answer rightly."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path
from typing import Any

import pytest

DEMOS = Path(__file__).resolve().parents[2] / "demos"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import one of the demos, with these arguments and this typed."""
    monkeypatch.syspath_prepend(str(DEMOS))

    def load(name: str, *arguments: str, typed: str = "") -> Any:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return importlib.import_module(name)

    return load


def test_a_webcam_is_asked_line_by_line(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    film = str(DEMOS / "clips" / "square_parade.mp4")
    demo("webcam", film, "--memory-bytes", "32MB", typed="which color is the square?\n\n").main()
    said = capsys.readouterr().out
    assert "Ask, one question a line" in said
    assert "  purple  (" in said


def test_a_network_camera_is_asked_again_and_again(
    demo: Any, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    module = demo("rtsp", "--serve", "--every", "1", "--seconds", "2.5")
    loopback = importlib.import_module("rtsp_loopback")
    if not loopback.has_server():
        (pytest.fail if request.config.getoption("--require-live") else pytest.skip)(loopback.INSTALL)
    module.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("s, 0 gaps: purple")


def test_a_network_camera_needs_an_address(demo: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo("rtsp").main()
    assert ended.value.code == 2
    assert "give the URL of a camera, or --serve" in capsys.readouterr().err
