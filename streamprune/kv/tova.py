"""TOVA: what the newest token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.kv.base import Policy, always_above
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class TOVA(Policy):
    """Keep the entries that the newest token attends to most, the same for all heads of a layer.

    Source: arXiv 2401.06104, as in the kvpress library, where the newest token itself stays. At the end of
        a chat
    prompt the newest token is one of the template, not of the question.
    """

    needs: ClassVar[tuple[str, ...]] = ("queries",)

    def query_rows(self, new: int) -> int:
        """One."""
        return 1

    def score(self, view: LayerView) -> torch.Tensor:
        """The newest query's attention, averaged over all query heads."""
        row = view.attention(1).mean((1, 2, 3))[:, None].expand(view.tokens.shape)
        return always_above(row, view.newest(1))
