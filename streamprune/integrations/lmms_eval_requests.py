"""What lmms-eval asks for, in the terms of ``ask``. Needs neither lmms-eval nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamprune.errors import InvalidTypeError, InvalidValueError

# what some tasks call the same thing
_PLACES = ("url", "path", "video", "image")
_WINDOW = {
    "start_seconds": ("start_time", "video_start"),
    "end_seconds": ("end_time", "video_end"),
}


@dataclass(frozen=True)
class Shown:
    """A video or picture of a task.

    Attributes:
        source: what ``open_source`` opens.
        start_seconds, end_seconds: look only at this part.
        is_picture: it is one frame.
    """

    source: Any
    start_seconds: float | None = None
    end_seconds: float | None = None
    is_picture: bool = False

    @property
    def key(self) -> tuple[str, float | None, float | None] | None:
        """Equal for the same part of the same file; None for what is in memory."""
        if not isinstance(self.source, str):
            return None
        return (self.source, self.start_seconds, self.end_seconds)


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        shown: its videos and pictures, which stand before the text.
        turns: earlier questions with their answers.
        question: the last one; what a system message says stands before the first.
    """

    shown: tuple[Shown, ...]
    turns: tuple[tuple[str, str], ...]
    question: str

    @classmethod
    def read(cls, messages: Sequence[Mapping[str, Any]]) -> Asked:
        """Put the messages of a task together. Raises InvalidValueError for what no video model is asked."""
        shown: list[Shown] = []
        turns: list[tuple[str, str]] = []
        said: list[str] = []
        for message in messages:
            texts = []
            for part in _parts(message.get("content")):
                if part.get("type") == "text":
                    texts.append(str(part["text"]))
                else:
                    shown.append(_shown(part))
            if message.get("role") != "assistant":
                said += texts
            elif said:
                turns.append(("\n".join(said), "\n".join(texts)))
                said = []
        question = "\n".join(text for text in said if text.strip())
        if not question:
            raise InvalidValueError("the messages of a task must end with a question of the user")
        if not shown:
            raise InvalidValueError(
                f"the question {question[:80]!r} comes without a video or picture, and streamprune answers "
                "about videos; leave tasks of text alone to other models"
            )
        if turns and len(shown) > 1:
            raise InvalidValueError("several turns can be about one video only, and the task shows several")
        return cls(tuple(shown), tuple(turns), question)


def answer_settings(given: Mapping[str, Any], max_new_tokens: int, seed: int | None) -> dict[str, Any]:
    """A task's ``generation_kwargs`` as arguments of ``ask``.

    Args:
        max_new_tokens: longest answer of tasks that do not say.
        seed: of words that are drawn.

    Raises InvalidValueError for beams. What concerns other models' pictures is passed over, as they do.
    """
    if (given.get("num_beams") or 1) > 1:
        raise InvalidValueError(
            f"num_beams must be 1, got {given['num_beams']}; words are not searched in beams"
        )
    until = given.get("until") or ()
    stops = [until] if isinstance(until, str) else list(until)
    temperature = given.get("temperature")
    if temperature is None:
        temperature = 1.0 if given.get("do_sample") else 0.0
    if given.get("do_sample") is False:
        temperature = 0.0
    settings: dict[str, Any] = {
        "max_new_tokens": int(given.get("max_new_tokens") or max_new_tokens),
        "temperature": float(temperature),
        "stop": tuple(stop for stop in stops if stop),
    }
    if temperature:
        settings |= {"seed": seed, **{name: given[name] for name in ("top_p", "top_k") if given.get(name)}}
    return settings


def _parts(content: object) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise InvalidTypeError(f"content of a message must be text or a list, got {type(content).__name__}")
    return list(content)


def _shown(part: Mapping[str, Any]) -> Shown:
    kind = part.get("type")
    if kind not in ("video", "image"):
        raise InvalidValueError(f"a task shows {kind!r}; streamprune sees videos and pictures only")
    fields: dict[str, Any] = dict(part)
    place = _place(fields)
    if isinstance(place, Mapping):  # a file, with the part of it that counts
        fields |= place
        place = _place(place)
    if place is None:
        raise InvalidValueError(f"a {kind} of a task has no url, but {sorted(part)}")
    window = {name: _seconds(fields, spellings) for name, spellings in _WINDOW.items()}
    return Shown(place, **window, is_picture=kind == "image")


def _place(fields: Mapping[str, Any]) -> Any:
    return next((fields[name] for name in _PLACES if fields.get(name) is not None), None)


def _seconds(fields: Mapping[str, Any], spellings: Sequence[str]) -> float | None:
    found = next((fields[name] for name in spellings if fields.get(name) is not None), None)
    return None if found is None else float(found)
