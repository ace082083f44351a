"""Which pre-LLM methods a stream can use: those that need no later frame, and no question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from streamprune.budget import Budget
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.pre_llm.none import KeepAll
from streamprune.reduce import Reducer
from streamprune.registry import list_methods
from streamprune.tokens import QUESTION_SIGNALS


def read_causal(method: Reducer) -> tuple[Reducer, int | None]:
    """``method`` for a stream, and how many tokens of every frame it is to keep, where its budget says so.

    Raises InvalidTypeError or InvalidValueError for what a stream cannot use.
    """
    if isinstance(method, type) or not callable(getattr(method, "reduce", None)):
        raise InvalidTypeError(
            f"method must be an object with reduce(tokens) -> Reduction, got {method!r}; "
            "streamprune.registry.build_method makes one of a name"
        )
    keep = None
    if isinstance(method, PreLLMMethod) and method.budget.keep_tokens is not None:
        keep = method.budget.keep_tokens
        # what ranks a whole clip by a budget need not when every frame has its own
        method = replace(method, budget=Budget())
    if isinstance(method, KeepAll):
        keep = None
    if not getattr(method, "causal", False):
        by_frame = (
            "random and stride with within='frame', timechat_online with threshold=, drop_share=, "
            "keep_tokens= or rank='frame'"
        )
        raise InvalidValueError(
            f"{type(method).__name__}, with these options, decides about a frame by frames that come later, "
            f"which a stream does not have; methods that do not: {', '.join(causal_names())}, and {by_frame}"
        )
    return method, keep


def causal_names() -> list[str]:
    """Methods that a stream can use whatever their options."""
    return [
        row.name
        for row in list_methods("pre_llm")
        if row.causal and not set(row.needs).intersection(QUESTION_SIGNALS)
    ]


def check_questions(method: Reducer, standing: Mapping[str, torch.Tensor]) -> None:
    """Raise InvalidValueError for a method that reads a question of which ``standing`` says nothing."""
    missing = [
        name for name in getattr(method, "needs", ()) if name in QUESTION_SIGNALS and name not in standing
    ]
    if missing:
        raise InvalidValueError(
            f"{type(method).__name__} chooses by the question ({', '.join(missing)}), and frames of a stream "
            f"are reduced before there is one; methods that do not: {', '.join(causal_names())}"
        )


def check_bucket(method: Reducer, keep: int | None) -> None:
    """Raise InvalidValueError for a method that a bucket cannot tell how many tokens stay."""
    if not isinstance(method, PreLLMMethod):
        raise InvalidValueError(
            f"{type(method).__name__} cannot be told how many tokens to keep, which a bucket does; derive it "
            "from streamprune.pre_llm.base.PreLLMMethod, or leave out the bucket"
        )
    if isinstance(method, KeepAll):
        raise InvalidValueError(
            "the method none keeps every token, whatever a bucket grants; name another one"
        )
    if keep is not None or method.budget.is_given:
        raise InvalidValueError(
            f"{type(method).__name__} has a budget of its own, and the bucket says how many tokens of a "
            "frame stay; give one of them (bucket_of makes the one of the other)"
        )


def counts_by_content(method: Reducer) -> bool:
    """Whether a threshold says how many tokens of a frame stay."""
    options = getattr(method, "instead_of_budget", ())
    return any(getattr(method, name) is not None for name in options)
