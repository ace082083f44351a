"""What a page may say: pictures as bytes, everything else as JSON; all of it checked before it is used.

A picture: its number (4 bytes), its time in seconds by the page's clock (8 bytes, a float), then a JPEG;
numbers big-endian. Everything else: ``{"type": "ask", "id": "7", "question": "what moves?"}`` and so on.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamprune.errors import InvalidValueError

PICTURE_HEADER = struct.Struct(">Id")
LONGEST_TEXT = 16_000
_LONGEST_QUESTION = 2_000
_LONGEST_ID = 64
_MOST_SECONDS = 1e9


@dataclass(frozen=True)
class Picture:
    """One picture of the page's camera: JPEG bytes and the page's own time."""

    number: int
    seconds: float
    jpeg: bytes


@dataclass(frozen=True)
class Ask:
    """A question about what was seen until now."""

    id: str
    question: str


@dataclass(frozen=True)
class Cancel:
    """The answer to question ``id`` is not wanted any more."""

    id: str


@dataclass(frozen=True)
class Watch:
    """A question to be asked again and again, ``every`` so many seconds, or whenever something is new."""

    id: str
    question: str
    every: float | None


@dataclass(frozen=True)
class Unwatch:
    """Stop a watch."""

    id: str


@dataclass(frozen=True)
class Shown:
    """The page has drawn picture ``number``; the next may come."""

    number: int


@dataclass(frozen=True)
class Reset:
    """Forget everything and begin again."""


Message: TypeAlias = Ask | Cancel | Watch | Unwatch | Shown | Reset


def read_picture(data: bytes, max_bytes: int) -> Picture:
    """A binary message; InvalidValueError says what is wrong with it."""
    if len(data) <= PICTURE_HEADER.size:
        raise InvalidValueError(
            f"a picture is {PICTURE_HEADER.size} bytes of number and time and a JPEG, got {len(data)} bytes"
        )
    number, seconds = PICTURE_HEADER.unpack_from(data)
    if len(data) - PICTURE_HEADER.size > max_bytes:
        raise InvalidValueError(
            f"picture {number} has {len(data) - PICTURE_HEADER.size} bytes, at most {max_bytes} are taken in "
            "(--max-upload-bytes); send it smaller"
        )
    if not 0 <= seconds <= _MOST_SECONDS:
        raise InvalidValueError(f"picture {number}: its time must be seconds from 0 on, got {seconds}")
    return Picture(number, seconds, data[PICTURE_HEADER.size :])


def picture_number(data: bytes) -> int | None:
    """The number of a picture, also of one that was refused."""
    return None if len(data) < PICTURE_HEADER.size else int(PICTURE_HEADER.unpack_from(data)[0])


def read_message(text: str) -> Message:
    """A text message; InvalidValueError says what is wrong with it."""
    if len(text) > LONGEST_TEXT:
        raise InvalidValueError(f"a message has at most {LONGEST_TEXT} characters, got {len(text)}")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"a message must be JSON: {error}") from error
    if not isinstance(said, dict):
        raise InvalidValueError(f"a message must be a JSON object, got {type(said).__name__}")
    kind = said.get("type")
    if kind == "ask":
        return Ask(_id(said), _question(said))
    if kind == "cancel":
        return Cancel(_id(said))
    if kind == "watch":
        return Watch(_id(said), _question(said), _every(said))
    if kind == "unwatch":
        return Unwatch(_id(said))
    if kind == "shown":
        return Shown(_number(said))
    if kind == "reset":
        return Reset()
    raise InvalidValueError(
        f"type must be ask, cancel, watch, unwatch, shown or reset, got {str(kind)[:40]!r}"
    )


def _id(said: dict[str, Any]) -> str:
    value = said.get("id")
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_ID:
        raise InvalidValueError(f"id must be text of 1 to {_LONGEST_ID} characters")
    return value


def _question(said: dict[str, Any]) -> str:
    value = said.get("question")
    if not isinstance(value, str) or not value.strip():
        raise InvalidValueError("question must be text, and not empty")
    if len(value) > _LONGEST_QUESTION:
        raise InvalidValueError(f"question has at most {_LONGEST_QUESTION} characters, got {len(value)}")
    return value.strip()


def _every(said: dict[str, Any]) -> float | None:
    value = said.get("every")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidValueError(f"every must be seconds or null, got {str(value)[:40]!r}")
    if not 0.5 <= value <= 86_400:
        raise InvalidValueError(f"every must be 0.5 to 86400 seconds, got {value}")
    return float(value)


def _number(said: dict[str, Any]) -> int:
    value = said.get("number")
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidValueError(f"number must be a whole number from 0 on, got {str(value)[:40]!r}")
    return value
