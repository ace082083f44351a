"""Zero-TPrune: drop what the attention graph ranks low, then what resembles something ranked higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number, check_share
from streamprune.encoder.base import (
    EncoderMethod,
    LayerInput,
    LayerReduction,
    Place,
    TowerShape,
    scaled_layers,
)
from streamprune.encoder.layer_attention import LayerAttention
from streamprune.encoder.token_map import TokenMap, like_kept
from streamprune.errors import InvalidTypeError
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows


@dataclass(frozen=True, kw_only=True)
class ZeroTPrune(EncoderMethod):
    """Prune by importance, then by similarity, with importance from repeated votes along the attention.

    After a few layers every token starts with the same importance and gives it out along its attention,
    again and again; heads whose votes are almost even or all on one token are left out, the others combined
    by root mean square. The least important go. Of the rest, the less important half is compared with the
    more important half (cosine of keys averaged over heads), and those with the closest look-alike go. A
    dropped patch reads the most similar token that stayed.

    Args:
        layer_keep_share: share of its tokens that each acting layer leaves, in (0, 1].
        similar_share: part of the dropped ones that go for their similarity, in [0, 1].
        iterations: rounds of voting, at least 1.
        head_variance: heads count when the variance of their importance lies in this range, measured on
            importances scaled to a mean of 1 and divided by its largest possible value, so that 0 is even and
            1 is one token alone; where no head passes, all count.
        layers: see EncoderMethod; None = layers 3, 6 and 9 of 12, at the same share of other depths.

    Source: arXiv 2305.17328; the release holds no code. What the text leaves open is decided here: five
    rounds of voting, halves by importance, keys as the measure of similarity, the scale of the variance and
    its default range.
    """

    layer_keep_share: float = 0.8
    similar_share: float = 0.5
    iterations: int = 5
    head_variance: tuple[float, float] = (1e-4, 0.7)

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")
    place: ClassVar[Place] = "after"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("layer_keep_share", self.layer_keep_share)
        check_number("similar_share", self.similar_share, 0, 1)
        check_count("iterations", self.iterations)
        if not isinstance(self.head_variance, tuple | list) or len(self.head_variance) != 2:
            raise InvalidTypeError(f"head_variance must be two numbers, got {self.head_variance!r}")
        for bound in self.head_variance:
            check_number("head_variance", bound, 0, 1)
        object.__setattr__(self, "head_variance", tuple(self.head_variance))

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """A quarter, half and three quarters up."""
        return scaled_layers((3, 6, 9), 12, tower.depth)

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """The same share of what came in, at least one."""
        return max(1, share_of(tokens, self.layer_keep_share))

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Rank by the layer's attention, compare its keys."""
        left = self.left_over(at.layer, at.tokens, at.tower)
        if left == at.tokens:
            return LayerReduction()
        rank = importance(at.signals.attention(), self.iterations, self.head_variance)
        # the more important half has to stay whole for the other half to be compared with
        similar = min(share_of(at.tokens - left, self.similar_share), left)
        ranking = highest(rank, left + similar)
        kept = drop_look_alikes(ranking, at.signals.mean_keys(), similar).sort(-1).values
        return LayerReduction(TokenMap.select(kept, like_kept(at.states, kept)))


def importance(
    attention: LayerAttention, iterations: int, head_variance: tuple[float, float]
) -> torch.Tensor:
    """(frames, tokens) float32: see :class:`ZeroTPrune`."""
    votes = attention.received()
    for _ in range(iterations - 1):
        votes = votes / votes.sum(-1, keepdim=True)
        votes = attention.received(votes)
    votes = votes / votes.sum(-1, keepdim=True)
    tokens = votes.shape[-1]
    # one token alone has the variance (tokens - 1) at a mean of 1
    variance = (votes * tokens).var(-1, correction=0) / max(1, tokens - 1)
    low, high = head_variance
    counts = ((variance >= low) & (variance <= high)).float()
    counts = torch.where(counts.sum(-1, keepdim=True) > 0, counts, 1.0)[..., None]
    return ((votes.square() * counts).sum(1) / counts.sum(1)).sqrt()


def drop_look_alikes(ranking: torch.Tensor, keys: torch.Tensor, dropped: int) -> torch.Tensor:
    """Take ``dropped`` tokens out of ``ranking`` (frames, tokens), most important first.

    The second half, the longer one, is compared with the first by the cosine of ``keys``; the most similar
    go, of equals the less important. What is left comes in no particular order.
    """
    if dropped == 0:
        return ranking
    first = ranking.shape[1] // 2
    unit = unit_rows(keys.gather(1, ranking[..., None].expand(-1, -1, keys.shape[-1])))
    closest = (unit[:, first:] @ unit[:, :first].mT).amax(-1)
    stay = highest(-closest, ranking.shape[1] - first - dropped)
    return torch.cat([ranking[:, :first], ranking[:, first:].gather(1, stay)], 1)
