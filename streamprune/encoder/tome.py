"""ToMe: in every layer the tokens most like another one are averaged into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_number
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, TowerShape
from streamprune.encoder.token_map import TokenMap
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.ops.matching import Matching, bipartite_match

# 13 tokens a layer of 196 in 12 layers, the published setting for ViT-B
_SHARE_REMOVED = 13 * 12 / 196


@dataclass(frozen=True, kw_only=True)
class ToMe(EncoderMethod):
    """Merge a fixed number of tokens per layer by bipartite matching of keys, weighted by size.

    Between attention and feed-forward, every second token of a frame may join the most similar of the others
    (cosine of keys averaged over heads); the pairs most alike do. A merged token is the mean of all patches
    it stands for. At the end each patch gets the states of the token it went into.

    Args:
        removed: tokens each acting layer merges away, at most half of what is there; a list gives one number
            per acting layer and 0 after its end; None = four fifths of the patches, spread over the layers.
        inflection: in [-1, 1], with a single number: -1 merges most in the first layers, 1 in the last, 0
            the same in all; the total stays about the same.
        proportional: add the logarithm of a token's size to its attention logits.
        layers: see EncoderMethod; None = every layer.

    Source: arXiv 2210.09461 and its release. Differences: equal similarities go to the lower token; frames
    are merged one by one. A summary token ([CLS]) is neither matched nor merged, as released, and here not
    counted either: the patches that may join are those the release lets others join, and the other way round.
    """

    removed: int | tuple[int, ...] | None = None
    inflection: float = 0.0
    proportional: bool = True

    needs: ClassVar[tuple[str, ...]] = ("keys",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("inflection", self.inflection, -1, 1)
        if self.removed is None or isinstance(self.removed, int):
            if self.removed is not None:
                check_count("removed", self.removed, least=0)
            return
        if isinstance(self.removed, str) or not isinstance(self.removed, Sequence):
            raise InvalidTypeError(f"removed must be an integer or a list of them, got {self.removed!r}")
        for one in self.removed:
            check_count("removed", one, least=0)
        if self.inflection:
            raise InvalidValueError("inflection belongs to a single number in removed, not to a list")
        object.__setattr__(self, "removed", tuple(self.removed))

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """What the schedule leaves, at least half."""
        return tokens - min(self._removed(layer, tower), tokens // 2)

    def _removed(self, layer: int, tower: TowerShape) -> int:
        acting = self.acting_layers(tower)
        removed = self.removed
        if removed is None:
            removed = round(_SHARE_REMOVED * tower.tokens / max(1, len(acting)))
        return merge_schedule(removed, self.inflection, len(acting))[acting.index(layer)]

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Match on the layer's keys."""
        removed = self._removed(at.layer, at.tower)
        if min(removed, at.tokens // 2) == 0:
            return LayerReduction(size=at.size)
        matching = bipartite_match(at.signals.mean_keys(), removed)
        return merged(at, matching)


def merged(at: LayerInput, matching: Matching) -> LayerReduction:
    """Average the tokens of each slot of ``matching`` by size."""
    size = at.sizes()
    total = torch.zeros(matching.kept.shape, device=size.device).scatter_add(1, matching.slot, size)
    weight = size / total.gather(1, matching.slot)
    return LayerReduction(TokenMap.merge(matching.kept, matching.slot, weight), total)


def merge_schedule(removed: int | Sequence[int], inflection: float, layers: int) -> list[int]:
    """Tokens to merge in each of ``layers`` layers: see ``removed`` and ``inflection`` of :class:`ToMe`."""
    if not isinstance(removed, int):
        return [*removed[:layers], *[0] * (layers - len(removed))]
    least = int(removed * (1 - inflection))
    step = (2 * removed - 2 * least) / (layers - 1) if layers > 1 else 0.0
    return [int(least + step * place) for place in range(layers)]
