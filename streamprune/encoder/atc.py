"""ATC: in a few layers the tokens of a frame are clustered, the two nearest clusters at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from streamprune.budget import Budget
from streamprune.checks import check_share
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, TowerShape, scaled_layers
from streamprune.encoder.token_map import TokenMap
from streamprune.errors import UnknownNameError
from streamprune.ops.linkage import Linkage, agglomerate
from streamprune.ops.similarity import unit_rows


@dataclass(frozen=True, kw_only=True)
class ATC(EncoderMethod):
    """Merge tokens by agglomerative clustering of keys, weighted by size.

    Between attention and feed-forward of a few layers the tokens of a frame are clustered by the cosine
    distance of their keys (averaged over heads) until so many clusters are left; each becomes the mean of all
    patches in it, in the order of their lowest tokens. At the end each patch gets the states of its cluster.

    Args:
        layer_keep_share: after the n-th acting layer this share to the power of n is left of the patches,
            rounded down, at least one; in (0, 1].
        linkage: distance of two clusters, the ``average``, largest (``complete``) or smallest (``single``)
            distance of their members.
        proportional: add the logarithm of a token's size to its attention logits. Without it, as released,
            a later merge counts each merged token as one.
        layers: see EncoderMethod; None = layers 3, 6 and 9 of 12, at the same share of other depths.

    Clustering runs on the CPU whatever the device of the tower.

    Source: arXiv 2409.11923 and its release. Differences: equal distances merge the lower clusters.
    """

    layer_keep_share: float = 0.9
    linkage: Linkage = "average"
    proportional: bool = True

    needs: ClassVar[tuple[str, ...]] = ("keys",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("layer_keep_share", self.layer_keep_share)
        if self.linkage not in get_args(Linkage):
            raise UnknownNameError.among("linkage of atc", self.linkage, get_args(Linkage))

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """A quarter, half and three quarters up."""
        return scaled_layers((3, 6, 9), 12, tower.depth)

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """A power of the share of all patches."""
        power = self.acting_layers(tower).index(layer) + 1
        share = self.layer_keep_share**power
        return min(tokens, Budget(keep_ratio=share).tokens(tower.tokens, rounding="truncate"))

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Cluster the layer's keys."""
        left = self.left_over(at.layer, at.tokens, at.tower)
        if left == at.tokens:
            return LayerReduction(size=at.size)
        unit = unit_rows(at.signals.mean_keys())
        slot = agglomerate(1 - unit @ unit.mT, left, self.linkage)
        size = at.sizes() if self.proportional else torch.ones_like(at.sizes())
        total = torch.zeros(len(slot), left, device=size.device).scatter_add(1, slot, size)
        token = torch.arange(at.tokens, device=slot.device).expand_as(slot)
        lowest = torch.full((len(slot), left), at.tokens, device=slot.device)
        lowest = lowest.scatter_reduce(1, slot, token, "amin")
        return LayerReduction(TokenMap.merge(lowest, slot, size / total.gather(1, slot)), total)
