"""SAINT: a layer drops the tokens that have many close look-alikes, as many as there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_number
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, TowerShape
from streamprune.encoder.token_map import TokenMap
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows


@dataclass(frozen=True, kw_only=True)
class Saint(EncoderMethod):
    """Drop even-numbered tokens that enough odd-numbered ones resemble; content decides how many.

    Between attention and feed-forward, a token's look-alikes are the odd-numbered ones whose keys (averaged
    over heads) have a cosine of at least the threshold with its own. A layer drops as many tokens as have
    enough of them, those with the most and closest first. A dropped patch reads the odd token most like it.

    Args:
        similarity_threshold: cosine from which on two tokens are alike; above 1 nothing is dropped.
        min_similar: look-alikes that make a token one too many.
        sharpness: how much the closeness of look-alikes counts against their number, at least 0.
        batch_mean: all frames of a batch drop the same number, the mean rounded down, as released; frames
            encoded together then influence each other. Otherwise each frame drops its own number.
        layers: see EncoderMethod; None = every layer.

    Source: arXiv 2503.11549 and its release for image towers, where ``min_similar`` and ``sharpness`` cannot
    be changed. Differences: without ``batch_mean`` frames run through the tower one by one; equal scores go
    to the lower token. The released form for two-tower models, a fixed number by summed similarity, and the
    one inside the language model are not this stage.
    """

    similarity_threshold: float = 0.75
    min_similar: int = 5
    sharpness: float = 10.0
    batch_mean: bool = False

    needs: ClassVar[tuple[str, ...]] = ("keys",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("similarity_threshold", self.similarity_threshold, -1, 2)
        check_count("min_similar", self.min_similar)
        check_number("sharpness", self.sharpness, 0, 1e3)

    @property
    def frame_by_frame(self) -> bool:
        """Unless the batch agrees on a number."""
        return not self.batch_mean

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int | None:
        """Unknown, but for thresholds no cosine reaches."""
        return tokens if self.similarity_threshold > 1 else None

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Count look-alikes on the layer's keys; at least the odd-numbered half stays."""
        # rounding puts cosines of equal keys slightly above 1
        if at.tokens < 2 or self.similarity_threshold > 1:
            return LayerReduction()
        unit = unit_rows(at.signals.mean_keys())
        similarity = unit[:, ::2] @ unit[:, 1::2].mT
        alike = similarity >= self.similarity_threshold
        redundant = (alike.sum(-1) >= self.min_similar).sum(-1)
        removed = int(redundant.float().mean())
        if removed == 0:
            return LayerReduction()
        scores = redundancy(similarity, self.similarity_threshold, self.sharpness)
        return LayerReduction(drop_even(scores, similarity, removed))


def redundancy(similarity: torch.Tensor, threshold: float, sharpness: float) -> torch.Tensor:
    """(frames, even) float32: how dispensable each token is, from (frames, even, odd) cosines.

    The number of look-alikes, times an exponential of how far they exceed the threshold on average; for
    tokens without any, their mean cosine.
    """
    alike = similarity >= threshold
    count = alike.sum(-1)
    excess = (similarity * alike).sum(-1) / count.clamp(min=1) - threshold
    return torch.where(count > 0, count * torch.exp(sharpness * excess), similarity.mean(-1))


def drop_even(scores: torch.Tensor, similarity: torch.Tensor, removed: int) -> TokenMap:
    """Drop the ``removed`` even-numbered tokens with the highest scores; the rest leave by falling score.

    All odd-numbered tokens follow them. A dropped token reads the odd one most like it.
    """
    frames, even, odd = similarity.shape
    ranking = highest(scores, even)
    dropped, left = ranking[:, :removed], ranking[:, removed:]
    places = torch.arange(even - removed + odd, device=scores.device).expand(frames, -1)
    slot = places.new_empty(frames, even + odd)
    slot[:, 1::2] = places[:, even - removed :]
    slot.scatter_(1, 2 * left, places[:, : even - removed])
    partner = similarity.max(-1).indices.gather(1, dropped)
    slot.scatter_(1, 2 * dropped, even - removed + partner)
    odd_tokens = 2 * torch.arange(odd, device=scores.device) + 1
    return TokenMap.select(torch.cat([2 * left, odd_tokens.expand(frames, -1)], 1), slot)
