"""RTSP against a real server on loopback, which is killed and started again while it is read."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamprune.errors import SourceNotFoundError, SourcePermissionError
from streamprune.readers import open_source
from streamprune.readers.live import LiveSource

_PYTHON = "/usr/bin/python3"
_PROBE = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
_INSTALL = (
    "needs an RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
KILLS = 2


class Server:
    """The server of rtsp_server.py on a port of its own."""

    def __init__(self, *credentials: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._credentials = credentials
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [_PYTHON, str(script), str(self.port), *self._credentials], stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def _gstreamer(request: pytest.FixtureRequest) -> None:
    there = (
        Path(_PYTHON).exists() and not subprocess.run([_PYTHON, "-c", _PROBE], capture_output=True).returncode
    )
    if not there:
        (pytest.fail if request.config.getoption("--require-live") else pytest.skip)(_INSTALL)


@pytest.fixture
def serve(_gstreamer: None) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*credentials: str) -> Server:
        started.append(Server(*credentials))
        return started[-1]

    yield start
    for server in started:
        server.kill()


def test_frames_come_back_after_every_kill(serve: Callable[..., Server]) -> None:
    server = serve()
    with open_source(f"rtsp://127.0.0.1:{server.port}/ball", drop="every", read_timeout_seconds=5) as source:
        assert isinstance(source, LiveSource)
        assert (source.info.rows, source.info.cols, source.info.codec) == (240, 320, "h264")
        times: list[float] = []
        kills = 0
        for number, frame in enumerate(source):
            times.append(frame.pts_seconds)
            assert frame.epoch <= kills, "a new epoch only after a loss"
            if frame.epoch == kills == KILLS:
                break
            if frame.epoch == kills and number % 5 == 4:
                server.kill()
                server.start()
                kills += 1
    assert times == sorted(set(times)), "nothing twice, and never back"
    health = source.health()
    assert health.reconnects == KILLS
    assert all(gap.seconds > 0 and gap.reason for gap in health.gaps)


def test_wrong_words_and_paths_are_told_apart(serve: Callable[..., Server]) -> None:
    at = f"127.0.0.1:{serve('bob', 's3cret').port}"
    with open_source(f"rtsp://bob:s3cret@{at}/ball") as source:
        assert next(iter(source)).source == source.info.source == f"rtsp://***@{at}/ball"
    for url, error in (
        (f"rtsp://bob:s3cret@{at}/nothing", SourceNotFoundError),
        (f"rtsp://bob:wrong-s3cret@{at}/ball", SourcePermissionError),
        (f"rtsp://{at}/ball", SourcePermissionError),
    ):
        with pytest.raises(error) as raised:
            open_source(url)
        assert "s3cret" not in str(raised.value)
