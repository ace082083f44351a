"""Starts and kills the RTSP server of rtsp_server.py, and reads the clock in its pictures."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

PYTHON = "/usr/bin/python3"
INSTALL = (
    "needs an RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
_PROBE = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
_SQUARE, _SQUARES, _BORDER = 20, 16, 5  # pixels of a side, in a row, of a square's edge that is not looked at


def has_server() -> bool:
    """Whether the system's Python can serve RTSP."""
    return (
        Path(PYTHON).exists() and not subprocess.run([PYTHON, "-c", _PROBE], capture_output=True).returncode
    )


def read_clock(image: NDArray[np.uint8]) -> int:
    """The milliseconds that a picture of /clock shows."""
    rows = image.shape[0]
    strip = image[rows - 2 * _SQUARE :, : _SQUARES * _SQUARE].mean(axis=2)
    squares = strip.reshape(2, _SQUARE, _SQUARES, _SQUARE)[:, _BORDER:-_BORDER, :, _BORDER:-_BORDER]
    bits = squares.mean(axis=(1, 3)).ravel() > 127
    return int(sum(1 << place for place, bit in enumerate(bits) if bit))


def clock_now() -> int:
    """The same clock, which all processes of a machine share."""
    return time.monotonic_ns() // 1_000_000 & 0xFFFFFFFF


class RtspServer:
    """The server on a port of its own, in a process; ends with the context.

    Args:
        film: an H.264 file in MP4 to play at /film.
        credentials: "user:password" that readers must know.
    """

    def __init__(self, *, film: Path | None = None, credentials: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._arguments = [*(["--film", str(film)] if film else []), "--credentials", credentials]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(self, path: str, credentials: str = "") -> str:
        """The address of ``path``, with what a reader says of himself."""
        who = f"{credentials}@" if credentials else ""
        return f"rtsp://{who}127.0.0.1:{self.port}{path}"

    def start(self) -> None:
        """Serve; returns when it listens."""
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [PYTHON, str(script), str(self.port), *self._arguments], stdout=subprocess.PIPE
        )
        if self._process.stdout is None or self._process.stdout.readline() != b"ready\n":
            self.kill()
            raise OSError(f"the RTSP server did not start; it {INSTALL}")

    def kill(self) -> None:
        """End it at once, in the middle of what it sends."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
