"""Messages of a request as a conversation about its videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamprune.errors import UsageError
from streamprune.readers.base import check_fps
from streamprune.web.openai_errors import invalid

_ROLES = ("system", "developer", "user", "assistant")
_MEDIA = {"video_url": "video", "image_url": "picture"}
_MOST_MEDIA = 32


@dataclass(frozen=True)
class MediaPart:
    """A video or picture as the client names it.

    Attributes:
        kind: "video" or "picture".
        url: data:, file: or https:.
        fps: of pictures that are the frames of a video, frames a second.
        param: where in the request it stands.
    """

    kind: str
    url: str
    fps: float | None
    param: str


@dataclass(frozen=True)
class Conversation:
    """What was said, and what is asked now.

    Attributes:
        media: the videos and pictures that it is about, which stand before everything that is said.
        turns: earlier questions with their answers.
        question: the last one.
    """

    media: tuple[MediaPart, ...]
    turns: tuple[tuple[str, str], ...]
    question: str

    @classmethod
    def read(cls, messages: object) -> Conversation:
        """Put messages together: one question is all that stands between two answers.

        What a system message says becomes the beginning of the first question, as templates of video models
        know no system. A video stands in the first message of the user; a later one may name it again.
        """
        if not isinstance(messages, list) or not messages:
            raise invalid("messages must be a list of at least one message", "messages")
        reader = _Reader()
        for number, message in enumerate(messages):
            reader.take(f"messages[{number}]", message)
        return reader.conversation()


class _Reader:
    """Takes one message after the other."""

    def __init__(self) -> None:
        self._media: list[MediaPart] = []
        self._turns: list[tuple[str, str]] = []
        self._asked: list[str] = []
        self._users = 0

    def take(self, param: str, message: object) -> None:
        if not isinstance(message, Mapping):
            raise invalid(f"{param} must be an object with role and content", param)
        role = message.get("role")
        if role not in _ROLES:
            raise invalid(
                f"{param}.role must be one of {', '.join(_ROLES)}, got {role!r}"[:200], f"{param}.role"
            )
        if message.get("tool_calls") or message.get("function_call"):
            raise invalid(f"{param} calls tools, which are not supported", param, "unsupported_parameter")
        text, media = _content(f"{param}.content", message.get("content"))
        if media and role != "user":
            raise invalid(f"{media[0].param}: only messages of the user may hold videos", media[0].param)
        if role == "assistant":
            self._answered(param, text)
            return
        if role == "user":
            self._look(media)
            self._users += 1
        if text.strip():
            self._asked.append(text)

    def conversation(self) -> Conversation:
        if not self._asked:
            raise invalid("the last message must be a question of the user", "messages")
        if not self._media:
            raise invalid(
                "the first message of the user must hold a video_url or image_url part: this model answers "
                "about videos",
                "messages",
                "video_missing",
            )
        if len(self._media) > 1 and self._turns:
            raise invalid("a conversation of several turns is about one video", "messages")
        return Conversation(tuple(self._media), tuple(self._turns), "\n".join(self._asked))

    def _answered(self, param: str, text: str) -> None:
        if not self._asked:
            raise invalid(f"{param} answers nothing: a question must stand before it", param)
        self._turns.append(("\n".join(self._asked), text))
        self._asked = []

    def _look(self, media: list[MediaPart]) -> None:
        """The first message of the user brings what all is about."""
        if not self._users:
            self._media = media
            return
        known = {(part.kind, part.url, part.fps) for part in self._media}
        for part in media:
            if (part.kind, part.url, part.fps) not in known:
                raise invalid(
                    f"{part.param}: videos stand in the first message of the user; begin a new conversation "
                    "about another one",
                    part.param,
                )


def _content(param: str, content: object) -> tuple[str, list[MediaPart]]:
    """Text of a message, and its videos and pictures."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise invalid(f"{param} must be text or a list of parts", param)
    texts: list[str] = []
    media: list[MediaPart] = []
    for number, part in enumerate(content):
        place = f"{param}[{number}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(kind, str) and kind in _MEDIA:
            media.append(_media_part(place, kind, part))
        else:
            raise invalid(
                f"{place} must be a part of type text, {' or '.join(_MEDIA)}, got {str(kind)[:50]!r}", place
            )
    if len(media) > _MOST_MEDIA:
        raise invalid(
            f"{param} holds {len(media)} videos and pictures, at most {_MOST_MEDIA} are taken", param
        )
    return "\n".join(texts), media


def _media_part(param: str, kind: str, part: Mapping[str, Any]) -> MediaPart:
    """``{"type": "video_url", "video_url": {"url": ..., "fps": ...}}``; a bare URL will do."""
    value = part.get(kind)
    where = f"{param}.{kind}"
    fields = {"url": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping) or not isinstance(fields.get("url"), str):
        raise invalid(f"{where}.url must be text", f"{where}.url")
    # "detail" is for models that show pictures in several sizes; these have one
    for name in fields:
        if name not in ("url", "detail", "fps"):
            raise invalid(f"unknown field {where}.{str(name)[:100]}", where, "unknown_parameter")
    fps = fields.get("fps")
    if fps is not None:
        try:
            fps = float(check_fps(f"{where}.fps", fps))
        except UsageError as error:
            raise invalid(str(error), f"{where}.fps") from error
    return MediaPart(_MEDIA[kind], fields["url"], fps, where)
