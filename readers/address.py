"""Where a live source is: what FFmpeg has to be told to open it, and a name for it without its passwords."""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from streamprune.errors import InvalidValueError, SourceNotFoundError
from streamprune.readers.credentials import redacted
from streamprune.readers.pipe import Pipe, stdin_pipe

STDIN = "-"
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
# what is looked at before the first picture makes that one so much older; nothing looked at is thrown away
# (fflags=nobuffer would): it may hold the only key frame for seconds
_PROMPT = {"analyzeduration": "100000"}
_OPTIONS: dict[str, dict[str, str]] = {
    "rtsp": _PROMPT,
    "rtsps": _PROMPT,
    "rtmp": _PROMPT,
    "rtmps": _PROMPT,
    # a reader that is late loses pictures, not the connection
    "udp": {**_PROMPT, "overrun_nonfatal": "1"},
    "tcp": _PROMPT,
    # of a playlist, begin with the newest segment
    "http": {"live_start_index": "-1"},
    "https": {"live_start_index": "-1"},
}
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_UNREADABLE_PLACE = (
    "host or port cannot be read; a port is a number in 0..65535, an IPv6 address stands in brackets, and "
    "/ ? # @ in a password are written %2F %3F %23 %40"
)
_VIDEO_DEVICE = re.compile(r"^/dev/video\d+$")


@dataclass(frozen=True)
class Address:
    """A live source before it is opened.

    Attributes:
        target: what FFmpeg opens, passwords included (not shown), or the `Pipe` it reads.
        name: the same for people: no password, no token.
        format: FFmpeg's name of the device or container, None to find out.
        options: FFmpeg's options.
        returns: whether opening it again after a loss makes sense.
    """

    target: Any = field(repr=False)
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    returns: bool = True


def read_address(source: str | int | os.PathLike[str]) -> Address | None:
    """The live source that ``source`` names; None for a file's path. Opens nothing.

    It may be a URL, the number or device of a camera, a named pipe, or "-" for standard input.

    Raises InvalidValueError for a URL of an unknown kind or without a host, SourceNotFoundError for a camera
    that is not there.
    """
    if isinstance(source, int):
        return _camera(source)
    if not isinstance(source, str):
        return _special_file(os.fspath(source))
    if source == STDIN:
        return Address(stdin_pipe(), "standard input", returns=False)
    if _URL.match(source):
        return _url(source)
    if _VIDEO_DEVICE.match(source):
        return _device(source, source)
    return _special_file(source)


def _url(url: str) -> Address:
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise InvalidValueError(
            f"source {redacted(url)!r}: a URL must begin with one of {known}; give a file as a plain path"
        )
    _check_place(url, scheme)
    return Address(url, redacted(url), options=dict(_OPTIONS[scheme]))


def _check_place(url: str, scheme: str) -> None:
    """Refuse a URL whose host or port cannot be meant."""
    try:
        parts = urlsplit(url)
        host, port, wrong = parts.hostname, parts.port, ""
    except ValueError:
        host, port, wrong = "", None, _UNREADABLE_PLACE
    if not wrong and scheme in ("udp", "tcp") and port is None:
        wrong = f"{scheme}:// needs a port, as in {scheme}://127.0.0.1:1234"
    elif not wrong and not host and scheme != "udp":  # udp://:1234 listens on every interface
        wrong = f"the host is missing; write {scheme}://HOST/PATH"
    if wrong:
        raise InvalidValueError(f"source {redacted(url)!r}: {wrong}")


def _special_file(source: str) -> Address | None:
    """A camera's device or a named pipe; None for everything else."""
    path = Path(source)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return Address(Pipe(source), source, returns=False)
    if stat.S_ISCHR(mode) and path.resolve().name.startswith("video"):
        return _device(str(path.resolve()), source)
    return None


def _camera(number: int) -> Address:
    if isinstance(number, bool) or number < 0:
        raise InvalidValueError(f"source {number!r}: a camera's number must be 0 or more")
    system = "linux" if sys.platform.startswith("linux") else sys.platform
    kind = _CAMERAS.get(system)
    if kind is None:
        raise InvalidValueError(f"source {number}: cameras are not supported on {sys.platform}; give a URL")
    name = f"camera {number}"
    if kind == "v4l2":
        return _device(f"/dev/video{number}", name)
    target = f"{number}:none" if kind == "avfoundation" else f"video={number}"
    return Address(target, name, format=kind, options=dict(_PROMPT))


def _device(device: str, name: str) -> Address:
    if not Path(device).exists():
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        raise SourceNotFoundError(
            f"{name}: {device} does not exist; "
            + (f"there are {', '.join(there)}" if there else "this machine has no camera")
        )
    return Address(device, name, format=_CAMERAS["linux"], options=dict(_PROMPT))
