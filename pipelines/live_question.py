"""A question about a stream, checked before its turn comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from streamprune.checks import check_count, check_flag
from streamprune.errors import UnknownNameError
from streamprune.models.chat_template import check_question
from streamprune.models.sampling import Sampling


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: of it.
        max_new_tokens: longest answer.
        sampling: how its words are chosen.
        remember: whether later questions see it and its answer.
    """

    text: str
    max_new_tokens: int
    sampling: Sampling
    remember: bool = False


def read_settings(text: str, settings: Mapping[str, Any]) -> Question:
    """A question with the ``settings`` of :func:`read_question`; UnknownNameError for any other."""
    known = list(signature(read_question).parameters)[1:]
    for name in settings:
        if name not in known:
            raise UnknownNameError.among("setting of ask()", name, ["stream", *known])
    return read_question(text, **settings)


def read_question(
    text: str,
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    remember: bool = False,
) -> Question:
    """A question as a user gives it.

    Args:
        max_new_tokens: longest answer.
        temperature, top_p, top_k, repetition_penalty, seed, stop: see :class:`Sampling`.
        remember: let later questions see this one and its answer, as text.

    Raises InvalidValueError or InvalidTypeError.
    """
    check_question(text)
    check_count("max_new_tokens", max_new_tokens)
    check_flag("remember", remember)
    sampling = Sampling.read(temperature, top_p, top_k, repetition_penalty, seed, stop)
    return Question(text, max_new_tokens, sampling, remember)
