"""RTSP against a real server on loopback, which is killed and started again while it is read."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from streamprune.errors import SourceNotFoundError, SourcePermissionError
from streamprune.readers import open_source

DEMOS = Path(__file__).resolve().parents[2] / "demos"
KILLS = 2


@pytest.fixture
def loopback(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that starts and kills servers."""
    monkeypatch.syspath_prepend(str(DEMOS))
    module = importlib.import_module("rtsp_loopback")
    if not module.has_server():
        (pytest.fail if request.config.getoption("--require-live") else pytest.skip)(module.INSTALL)
    return module


def test_frames_come_back_after_every_kill(loopback: Any) -> None:
    told: list[str] = []
    seen = importlib.import_module("rtsp_soak").ride(KILLS, 0.0, told.append, frames_between=5)
    assert seen.faults() == []
    assert len(seen.gaps) == len(told) == seen.health.reconnects == KILLS
    assert seen.health.delivered == len(seen.clocks) >= (KILLS + 1) * 5
    assert seen.health.dropped == 0


def test_wrong_words_and_paths_are_told_apart(loopback: Any) -> None:
    with loopback.RtspServer(credentials="bob:s3cret") as server:
        with open_source(server.url("/clock", "bob:s3cret")) as source:
            shown = f"rtsp://***@127.0.0.1:{server.port}/clock"
            assert next(iter(source)).source == source.info.source == shown
            assert (source.info.rows, source.info.cols, source.info.codec) == (240, 320, "h264")
        for url, error in (
            (server.url("/nothing", "bob:s3cret"), SourceNotFoundError),
            (server.url("/clock", "bob:wrong-s3cret"), SourcePermissionError),
            (server.url("/clock"), SourcePermissionError),
        ):
            with pytest.raises(error) as raised:
                open_source(url)
            assert "s3cret" not in f"{raised.value!r}{raised.value.__context__!r}"
