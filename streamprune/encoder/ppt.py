"""PPT: a layer prunes when a few tokens stand out and merges when none does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_number
from streamprune.encoder.base import (
    EncoderMethod,
    LayerInput,
    LayerReduction,
    TowerShape,
    scaled_count,
    scaled_layers,
)
from streamprune.encoder.token_map import TokenMap, like_kept
from streamprune.ops.matching import bipartite_match
from streamprune.ops.selection import highest

# published for 196 patches
_REMOVED, _VARIANCE, _PATCHES = 50, 7e-5, 196


@dataclass(frozen=True, kw_only=True)
class PPT(EncoderMethod):
    """Prune the least attended tokens of frames where attention is uneven, merge alike ones elsewhere.

    Between attention and feed-forward of a few layers each token is scored by the attention it receives
    times the length of its value; scores of a frame sum to 1. Where their variance reaches a threshold the
    lowest go, and their patches read the most similar token that stayed; otherwise tokens are merged as in
    ToMe.

    Args:
        removed: tokens each acting layer takes away, at most half of what is there; None = 50 of 196 patches.
        variance_threshold: from this variance of the scores on a frame is pruned; None = 7e-5 at 196 patches,
            scaled so that the same unevenness counts as much at other numbers of patches.
        proportional: add the logarithm of a token's size to its attention logits.
        layers: see EncoderMethod; None = layers 3, 6 and 9 of 12, at the same share of other depths.

    Source: arXiv 2310.01812 and its release. Differences: no summary token is seen, so the attention is
    the mean over the queries of all patches instead of its row; equal scores go to the lower token.
    """

    removed: int | None = None
    variance_threshold: float | None = None
    proportional: bool = True

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys", "values")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.removed is not None:
            check_count("removed", self.removed, least=0)
        if self.variance_threshold is not None:
            check_number("variance_threshold", self.variance_threshold, 0, float("inf"))

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """A quarter, half and three quarters up."""
        return scaled_layers((3, 6, 9), 12, tower.depth)

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """The same whether pruned or merged."""
        removed = scaled_count(_REMOVED, _PATCHES, tower.tokens) if self.removed is None else self.removed
        return tokens - min(removed, tokens // 2)

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Decide for every frame on its own whether to prune or to merge."""
        left = self.left_over(at.layer, at.tokens, at.tower)
        if left == at.tokens:
            return LayerReduction(size=at.size)
        scores = attended_scores(at.signals.attention().received().sum(1), at.signals.get("values"))
        threshold = self.variance_threshold
        if threshold is None:
            threshold = _VARIANCE * (_PATCHES / at.tower.tokens) ** 2
        prunes = (scores.var(-1) >= threshold)[:, None]
        matching = bipartite_match(at.signals.mean_keys(), at.tokens - left)
        strongest = highest(scores, left)
        kept = torch.where(prunes, strongest, matching.kept)
        slot = torch.where(prunes, like_kept(at.states, strongest), matching.slot)
        alive = torch.zeros_like(scores).scatter(1, strongest, 1.0)
        size = at.sizes() * torch.where(prunes, alive, 1.0)
        total = torch.zeros(kept.shape, device=size.device).scatter_add(1, slot, size)
        return LayerReduction(TokenMap.merge(kept, slot, size / total.gather(1, slot)), total)


def attended_scores(received: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) summing to 1: ``received`` attention times the length of the value over all heads.

    Args:
        received: (frames, tokens), at least 0.
        values: (frames, heads, tokens, dim). Where every value is zero all tokens score the same.
    """
    scores = received * torch.linalg.vector_norm(values, dim=(1, 3))
    total = scores.sum(-1, keepdim=True)
    return torch.where(total > 0, scores / total, 1 / scores.shape[-1])
