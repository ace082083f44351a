"""Token Transforming: a few informative tokens take up all the others, each shared out among several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_number, check_share
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, TowerShape, scaled_layers
from streamprune.encoder.token_map import TokenMap
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows


@dataclass(frozen=True, kw_only=True)
class TokenTransforming(EncoderMethod):
    """Replace the tokens of a frame by weighted means around the most attended ones, many to many.

    Between attention and feed-forward of a few layers the tokens that receive most attention become
    centres. Every other token is shared out among the centres by a softmax over the cosines of their keys
    (averaged over heads); a centre keeps itself whole. Each centre leaves as the mean of what it got,
    weighted by size. At the end a patch reads the centres in the shares it was given out in.

    Args:
        layer_keep_share: share of its tokens that each acting layer leaves, in (0, 1].
        temperature: of the softmax, above 0; near 0 every token goes to one centre only.
        proportional: add the logarithm of a token's size to its attention logits.
        layers: see EncoderMethod; None = layers 3, 6 and 9 of 12, at the same share of other depths.

    Source: arXiv 2506.05709, of which the view is kept, one matrix with rows that sum to 1 in place of
    choices; the code is not released, and centres, similarity and temperature are this project's reading.
    """

    layer_keep_share: float = 0.8
    temperature: float = 0.02
    proportional: bool = True

    needs: ClassVar[tuple[str, ...]] = ("queries", "keys")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("layer_keep_share", self.layer_keep_share)
        check_number("temperature", self.temperature, 1e-6, 1e6)

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """A quarter, half and three quarters up."""
        return scaled_layers((3, 6, 9), 12, tower.depth)

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
        """The same share of what came in, at least one."""
        return max(1, share_of(tokens, self.layer_keep_share))

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Choose centres by the layer's attention, share out by its keys."""
        left = self.left_over(at.layer, at.tokens, at.tower)
        if left == at.tokens:
            return LayerReduction(size=at.size)
        received = at.signals.attention().received().mean(1)
        centres = highest(received, left).sort(-1).values
        given = shares(at.signals.mean_keys(), centres, self.temperature)
        mix, size = transformation(given, at.sizes())
        return LayerReduction(TokenMap.transform(centres, mix, given), size)


def shares(keys: torch.Tensor, centres: torch.Tensor, temperature: float) -> torch.Tensor:
    """(frames, tokens, centres): how each token is shared out; rows sum to 1, a centre's is all its own.

    Args:
        keys: (frames, tokens, dim), compared by cosine.
        centres: (frames, centres) positions among the tokens.
        temperature: of the softmax over centres.
    """
    unit = unit_rows(keys)
    chosen = unit.gather(1, centres[..., None].expand(-1, -1, unit.shape[-1]))
    given = torch.softmax((unit @ chosen.mT) / temperature, -1)
    own = torch.eye(centres.shape[1], device=keys.device).expand(len(keys), -1, -1)
    return given.scatter(1, centres[..., None].expand_as(own), own)


def transformation(given: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix (frames, centres, tokens) with rows that sum to 1, and the new sizes (frames, centres)."""
    weight = given.mT * size[:, None]
    total = weight.sum(-1)
    return weight / total[..., None], total
