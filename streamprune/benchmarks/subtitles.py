"""Subtitles as plain lines with seconds."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from pathlib import Path

from streamprune.errors import InvalidValueError, SourceFormatError

_STAMP = r"(?:(\d+):)?(\d{1,2}):(\d{2})[,.](\d{1,3})"
_TIMING = re.compile(rf"{_STAMP}\s*-->\s*{_STAMP}")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Line:
    """What is said between two moments, in seconds."""

    start_seconds: float
    end_seconds: float
    text: str


def read_srt(path: Path) -> list[Line]:
    """The lines of an .srt file without the tags some sets leave in (``<font ...>``); empty ones left out.

    Raises:
        SourceFormatError: there is text, but no timing in it.
    """
    content = path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
    blocks = re.split(r"\n[ \t]*\n", content.strip())
    timed = [_line(match, block) for block in blocks if (match := _TIMING.search(block))]
    if content.strip() and not timed:
        raise SourceFormatError(f"{path} has no line of the form 00:00:01,000 --> 00:00:02,000")
    return [line for line in timed if line.text]


def clock_seconds(text: str, place: str) -> float:
    """Seconds of "h:mm:ss.fff", "mm:ss" or "ss".

    Raises:
        InvalidValueError: it is none of them; ``place`` says where it stands.
    """
    parts = text.strip().split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"\d+(?:\.\d+)?", part) for part in parts):
        raise InvalidValueError(f"{place}: a time must be h:mm:ss, got {text!r}")
    return float(sum(float(part) * 60**power for power, part in enumerate(reversed(parts))))


def with_subtitles(question: str, lines: list[Line]) -> str:
    """``question`` after all that is said in the video; unchanged where nothing is."""
    if not lines:
        return question
    said = "\n".join(line.text for line in lines)
    return f"Subtitles of the video:\n{said}\n\n{question}"


def plain(text: str) -> str:
    """``text`` on one line, without tags and entities."""
    return " ".join(html.unescape(_TAG.sub("", text)).split())


def _line(match: re.Match[str], block: str) -> Line:
    hours, minutes, seconds, fraction, *end = match.groups()
    return Line(_seconds(hours, minutes, seconds, fraction), _seconds(*end), plain(block[match.end() :]))


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}")
