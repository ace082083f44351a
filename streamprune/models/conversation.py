"""What a chat template writes between one answer and the next."""

from __future__ import annotations

from typing import Any

from streamprune.errors import UnsupportedModelError
from streamprune.models.chat_template import check_question, text_ids

# stands for the answer so far, which is in the conversation as the very tokens that were generated
_ANSWER = "\N{LEFT DOUBLE ANGLE BRACKET}answer\N{RIGHT DOUBLE ANGLE BRACKET}"


def next_turn_ids(tokenizer: Any, question: str, template: str | None = None) -> list[int]:
    """Ids from the end of an answer to where the next one begins, with ``question`` between them."""
    return _inner_ids(tokenizer, next_turn_text(tokenizer, question, template), "x")


def given_answer_ids(tokenizer: Any, answer: str) -> list[int]:
    """Ids of an answer that was not generated here, as they stand behind the line in which it begins."""
    return _inner_ids(tokenizer, answer.strip(), "\n")


def _inner_ids(tokenizer: Any, text: str, before: str) -> list[int]:
    """Ids of ``text`` behind ``before``: some tokenizers put a space before whatever comes first."""
    first = text_ids(tokenizer, before)
    ids = text_ids(tokenizer, before + text)
    return ids[len(first) :] if ids[: len(first)] == first else text_ids(tokenizer, text)


def next_turn_text(tokenizer: Any, question: str, template: str | None = None) -> str:
    """The same as text; ``template`` in place of the tokenizer's own."""
    check_question(question)
    turns = [
        ("user", [{"type": "video"}, {"type": "text", "text": "?"}]),
        ("assistant", [{"type": "text", "text": _ANSWER}]),
        ("user", [{"type": "text", "text": question}]),
    ]
    name = str(tokenizer.name_or_path)
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # whatever a damaged template sets off inside the template engine
        raise UnsupportedModelError(
            f"the chat template of {name!r} cannot write a second question: {error}"
        ) from error
    before, _, behind = text.partition(_ANSWER)
    if not behind or not before:
        raise UnsupportedModelError(
            f"the chat template of {name!r} leaves out earlier answers, so that there can be no second "
            "question; ask each one by itself"
        )
    return behind
