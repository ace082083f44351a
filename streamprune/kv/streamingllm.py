"""StreamingLLM: the first tokens, which attention rests on, and a window of the newest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.checks import check_count
from streamprune.kv.base import Policy
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class StreamingLLM(Policy):
    """Keep the first tokens of the prompt and the newest tokens; what lies between is forgotten.

    Content is never looked at, so all layers and heads hold the same tokens.

    Args:
        sinks: tokens at the beginning that stay, 0 or more; with a budget smaller than that, the first ones.

    Source: arXiv 2309.17453. Entries keep their positions; ``KeptCache(positions="compact")`` counts
        positions
    inside the cache, as the paper does. Padding in front of a row is no sink. The release's room for ``c``
    tokens to come is a budget smaller by ``c``. A system prompt longer than ``sinks`` is kept whole with
    ``protect_first``.
    """

    sinks: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("sinks", self.sinks, least=0)

    def score(self, view: LayerView) -> torch.Tensor:
        """Age; sinks above everything, the first one highest."""
        tokens = view.tokens.to(torch.float32)
        return torch.where(view.oldest(self.sinks), 2.0**25 - tokens, tokens)
