"""From a question to the ids of a chat prompt with one video placeholder in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamprune.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError


def check_question(question: object) -> str:
    """Return ``question`` if it is text that says something; InvalidTypeError or InvalidValueError if not."""
    if not isinstance(question, str):
        raise InvalidTypeError(f"question must be text, got {type(question).__name__}")
    if not question.strip():
        raise InvalidValueError("question must not be empty; say what you want to know about the video")
    return question


def video_prompt_ids(tokenizer: Any, question: str) -> list[int]:
    """Ids of a one-turn chat, first the video, then ``question``, up to where the answer begins."""
    return text_ids(tokenizer, video_prompt_text(tokenizer, question))


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of ``text``, in which the template has written whatever special tokens the model wants."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def video_prompt_text(tokenizer: Any, question: str, template: str | None = None, *, videos: int = 1) -> str:
    """The same as text, with a placeholder for each video; ``template`` in place of the tokenizer's own."""
    check_question(question)
    content = [*[{"type": "video"}] * videos, {"type": "text", "text": question}]
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # whatever a damaged template sets off inside the template engine
        raise UnsupportedModelError(
            f"the chat template of {str(tokenizer.name_or_path)!r} cannot write a prompt: {error}"
        ) from error
    return text


def check_placeholders(text: str, video: str, token: str) -> None:
    """Raise InvalidValueError unless ``text`` has one ``video`` and no ``token``: the question brought more.

    Args:
        video: what the template writes for a video.
        token: what stands for one visual token, or for another medium.
    """
    if text.count(video) != 1 or token in text:
        raise InvalidValueError(
            f"question must not contain the placeholders {video!r} or {token!r}; take them out"
        )


def place_of_video(ids: Sequence[int], tokenizer: Any, video_id: int, image_id: int | None = None) -> int:
    """Index of the only video placeholder in ``ids``; InvalidValueError when the question brought more."""
    places = [i for i, value in enumerate(ids) if value == video_id]
    foreign = image_id is not None and image_id in ids
    if len(places) != 1 or foreign:
        names = tokenizer.convert_ids_to_tokens([i for i in (video_id, image_id) if i is not None])
        raise InvalidValueError(
            f"question must not contain the placeholders {' or '.join(map(repr, names))}; take them out"
        )
    return places[0]
