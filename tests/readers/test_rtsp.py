"""RTSP against a real server on loopback, which is killed and started again while it is read."""

from __future__ import annotations

import importlib
import itertools
from pathlib import Path
from typing import Any

import av
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


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_pictures_travel_as_asked(loopback: Any, transport: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []
    open_really = av.open

    def spy(target: str, **how: Any) -> Any:
        asked.append(how["container_options"])
        return open_really(target, **how)

    monkeypatch.setattr(av, "open", spy)
    with (
        loopback.RtspServer() as server,
        open_source(server.url("/clock"), drop="every", rtsp_transport=transport) as source,
    ):
        clocks = [loopback.read_clock(frame.image) for frame in itertools.islice(source, 5)]
    assert clocks == sorted(set(clocks))
    assert asked[0]["rtsp_transport"] == transport


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
