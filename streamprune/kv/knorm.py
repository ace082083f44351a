"""KNorm: keys of small norm are the ones that draw attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.kv.base import Policy
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class KNorm(Policy):
    """Keep the entries whose keys have the smallest Euclidean norm, each head its own.

    Source: arXiv 2406.11430, as in the kvpress library; no layer is left out. Nothing protects the first or
        the
    newest tokens beside their norms: see ``protect_first`` and ``protect_last``. Of little use for models
        that
    normalise their keys.
    """

    def score(self, view: LayerView) -> torch.Tensor:
        """Minus the norm."""
        norm: torch.Tensor = torch.linalg.vector_norm(view.keys.float(), dim=-1)
        return -norm
