"""A method's own decision, without the short cut that keeps everything unchanged where the budget does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from streamprune.reduce import choose_reducer
from streamprune.reduction import Reduction
from streamprune.tokens import VisualTokens


def decide(
    features: torch.Tensor,
    method: str,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    signals: Mapping[str, torch.Tensor] | None = None,
    **options: Any,
) -> Reduction:
    """What ``reduce_tokens`` gives, and at full budget what a release gives, which may merge even then."""
    reducer = choose_reducer(method, keep_ratio=keep_ratio, keep_tokens=keep_tokens, options=options)
    return reducer.reduce(VisualTokens.from_grid(features, signals))
