"""Keeps passwords and tokens out of names, messages and logs."""

from __future__ import annotations

import logging
import re

_HIDDEN = "***"
_WORDS = r"(?:user|login|pas|pwd|psw|token|key|secret|auth|sig|cred|session)"
# cameras take name=value in the path too, as in /user=admin_password=x_channel=1.sdp
_IN_PATH = re.compile(rf"([^/=]*{_WORDS}[^/=]*=)[^/]*", re.IGNORECASE)
_IN_QUERY = re.compile(rf"([^&;=]*{_WORDS}[^&;=]*=)[^&;]*", re.IGNORECASE)
_IN_TEXT = (
    (re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+"), lambda found: redacted(found[0])),
    (re.compile(rf"(\b\w*{_WORDS}\w*=)[^\s&;'\"]+", re.IGNORECASE), lambda found: found[1] + _HIDDEN),
    (re.compile(r"(authorization: *)[^\r\n]+", re.IGNORECASE), lambda found: found[1] + _HIDDEN),
)
# the parts of FFmpeg that are told an address; each logs under a name of its own
_FFMPEG_PARTS = (
    "crypto", "dash", "ffurl", "hls", "http", "httpproxy", "https", "mpegts", "mpjpeg", "rtmp", "rtmps",
    "rtmpt", "rtp", "rtsp", "rtsps", "sdp", "tcp", "tls", "udp",
)  # fmt: skip


def redacted(url: str) -> str:
    """``url`` without user, password, and the values of parameters that look like secrets.

    Everything up to the last @ is hidden: a password may hold any sign, a slash among them.
    """
    scheme, mark, rest = url.partition("://")
    _, at, place = rest.rpartition("@")
    place, question, query = place.partition("#")[0].partition("?")
    shown = _IN_PATH.sub(rf"\1{_HIDDEN}", place) + question + _IN_QUERY.sub(rf"\1{_HIDDEN}", query)
    return f"{scheme}{mark}{_HIDDEN if at else ''}{at}{shown}"


def redacted_text(text: str) -> str:
    """``text`` with every address in it redacted, and headers and parameters that look like secrets."""
    for pattern, hide in _IN_TEXT:
        text = pattern.sub(hide, text)
    return text


class _Redacting(logging.Filter):
    """Lets every record pass, without its secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted_text(record.getMessage()), None
        return True


_REDACTING = _Redacting()


def hide_in_ffmpeg_logs() -> None:
    """Redact what FFmpeg logs for those who turn its log on (``av.logging``); harmless when repeated."""
    for part in _FFMPEG_PARTS:
        logging.getLogger(f"libav.{part}").addFilter(_REDACTING)
