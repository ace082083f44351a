"""``reduce_tokens``: any pre-LLM method on bare tensors, no model needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from streamprune.budget import Budget
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.registry import build_method
from streamprune.tokens import Reduction, VisualTokens

if TYPE_CHECKING:
    import torch


class Reducer(Protocol):
    """Anything that turns tokens into a decision; every built-in pre-LLM method is one."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Decide what stays of ``tokens``."""


def reduce_tokens(
    features: torch.Tensor,
    method: str | Reducer,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    signals: Mapping[str, torch.Tensor] | None = None,
    pts_seconds: tuple[float, ...] | None = None,
    **options: Any,
) -> Reduction:
    """Reduce the visual tokens of one video.

    Args:
        features: (frames, rows, cols, channels) floating-point tensor, any device.
        method: name of a pre-LLM method (``streamprune methods`` lists them), or an object with
            ``reduce(tokens) -> Reduction``, which brings its own budget and options.
        keep_ratio: share of the tokens KEPT, in (0, 1].
        keep_tokens: number of tokens kept; give one of the two, or neither to keep all.
        signals: tensors the method needs, by name, e.g. ``{"saliency": (frames, rows, cols)}``.
        pts_seconds: time of each frame, for methods that ask.
        **options: the method's own options; a wrong name is answered with the known ones.

    Returns:
        A Reduction: ``index``, ``source``, ``size``, ``features``, ``weights``, ``apply``.

    Raises:
        UnknownNameError, InvalidValueError, InvalidTypeError, SignalError: all also ValueError or TypeError.
    """
    chosen = choose_reducer(method, keep_ratio=keep_ratio, keep_tokens=keep_tokens, options=options)
    return run_reducer(chosen, VisualTokens.from_grid(features, signals, pts_seconds))


def choose_reducer(
    method: str | Reducer,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Reducer:
    """Build the named method with its budget, or check that ``method`` is one already."""
    options = options or {}
    if "budget" in options:
        raise InvalidValueError("budget is not an option; give keep_ratio or keep_tokens")
    if isinstance(method, str):
        built: Reducer = build_method(
            "pre_llm", method, {**options, "budget": Budget(keep_ratio, keep_tokens)}
        )
        return built
    if isinstance(method, type) or not callable(getattr(method, "reduce", None)):
        raise InvalidTypeError(
            "method must be a name or an object with reduce(tokens) -> Reduction, "
            f"got {method!r}" + ("; make an instance of it first" if isinstance(method, type) else "")
        )
    if keep_ratio is not None or keep_tokens is not None or options:
        raise InvalidValueError(
            f"{type(method).__name__} is an object that brings its own budget and options; "
            "set them when making it, not in this call"
        )
    return method


def run_reducer(method: Reducer, tokens: VisualTokens) -> Reduction:
    """Run ``method``: the one door through which every stage and test calls a reducer.

    A budget that keeps everything is answered here, so that no method can lose a bit at keep_ratio 1.
    """
    import torch

    # one pass over the data; a sum is NaN or infinite exactly when a value is (float32 sums of finite
    # half-precision features cannot overflow)
    if not bool(torch.isfinite(tokens.features.sum(dtype=torch.float32))):
        bad = int((~torch.isfinite(tokens.features)).any(-1).sum())
        if bad:
            raise InvalidValueError(f"features must be finite; {bad} of {len(tokens)} tokens hold NaN or inf")
    if _keeps_everything(method, tokens):
        return Reduction.identity(tokens)
    reduction = method.reduce(tokens)
    if not isinstance(reduction, Reduction):
        raise InvalidTypeError(
            f"{type(method).__name__}.reduce must return a Reduction (Reduction.select or .merge makes one), "
            f"got {type(reduction).__name__}"
        )
    return reduction


def _keeps_everything(method: Reducer, tokens: VisualTokens) -> bool:
    if isinstance(method, PreLLMMethod):
        return method.keeps_everything(tokens.grid)
    budget = getattr(method, "budget", None)
    return isinstance(budget, Budget) and budget.tokens(len(tokens)) == len(tokens)
