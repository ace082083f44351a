"""Where a live source is: what FFmpeg has to be told to open it, and a name for it without its passwords."""

from __future__ import annotations

import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from streamprune.errors import InvalidValueError, SourceNotFoundError

STDIN = "-"
SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_SECRETS = re.compile(r"pass|pwd|token|key|secret|auth|sig", re.IGNORECASE)
_HIDDEN = "***"
# without these the first picture of a camera is a second old
_NO_DELAY = {"fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "100000"}
_OPTIONS: dict[str, dict[str, str]] = {
    "rtsp": {**_NO_DELAY, "rtsp_transport": "tcp"},
    "rtsps": {**_NO_DELAY, "rtsp_transport": "tcp"},
    "rtmp": _NO_DELAY,
    "rtmps": _NO_DELAY,
    "udp": {"fflags": "nobuffer", "flags": "low_delay"},
    "tcp": {"fflags": "nobuffer", "flags": "low_delay"},
    # of a playlist, begin with the newest segment
    "http": {"live_start_index": "-1"},
    "https": {"live_start_index": "-1"},
}
_CAMERAS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True)
class Address:
    """A live source before it is opened.

    Attributes:
        target: what FFmpeg opens, passwords included; not shown.
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


def read_address(source: str | int) -> Address | None:
    """The live source that ``source`` names: a URL, a camera's number or device, "-"; None for a file's path.

    Raises InvalidValueError for a URL of an unknown kind, SourceNotFoundError for a camera that is not there.
    """
    if isinstance(source, int):
        return _camera(source)
    if source == STDIN:
        return Address(sys.stdin.buffer, "standard input", returns=False)
    if _URL.match(source):
        return _url(source)
    if _is_device(Path(source)):
        return Address(source, source, format=_CAMERAS["linux"], options=dict(_NO_DELAY))
    return None


def redacted(url: str) -> str:
    """``url`` without user, password, and the values of parameters that look like secrets."""
    try:
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
    except ValueError:
        return f"{url.partition('://')[0]}://{_HIDDEN}"
    place = f"{_HIDDEN}@{place}" if "@" in parts.netloc else place
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    hidden = [(name, _HIDDEN if _SECRETS.search(name) else value) for name, value in pairs]
    query = urlencode(hidden, quote_via=quote, safe="*/:") if hidden else parts.query
    return urlunsplit((parts.scheme, place, parts.path, query, ""))


def _url(url: str) -> Address:
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise InvalidValueError(
            f"source {redacted(url)!r}: a URL must begin with one of {known}; give a file as a plain path"
        )
    return Address(url, redacted(url), options=dict(_OPTIONS[scheme]))


def _is_device(path: Path) -> bool:
    try:
        return stat.S_ISCHR(path.stat().st_mode) and path.name.startswith("video")
    except (OSError, ValueError):
        return False


def _camera(number: int) -> Address:
    if isinstance(number, bool) or number < 0:
        raise InvalidValueError(f"source {number!r}: a camera's number must be 0 or more")
    system = "linux" if sys.platform.startswith("linux") else sys.platform
    kind = _CAMERAS.get(system)
    if kind is None:
        raise InvalidValueError(f"source {number}: cameras are not supported on {sys.platform}; give a URL")
    name = f"camera {number}"
    if kind != "v4l2":
        target = f"{number}:none" if kind == "avfoundation" else f"video={number}"
        return Address(target, name, format=kind, options=dict(_NO_DELAY))
    device = Path(f"/dev/video{number}")
    if not device.exists():
        there = sorted(str(path) for path in Path("/dev").glob("video*"))
        raise SourceNotFoundError(
            f"{name}: {device} does not exist; "
            + (f"there are {', '.join(there)}" if there else "this machine has no camera")
        )
    return Address(str(device), name, format=kind, options=dict(_NO_DELAY))
