"""SAINT: a layer drops the tokens that have many close look-alikes, as many as there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number, check_share
from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, TowerShape
from streamprune.encoder.token_map import TokenMap, like_kept
from streamprune.errors import UnknownNameError
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows

Form = Literal["bipartite", "graph"]

# the first round of the graph form drops one in so many
_FIRST_DIVISOR = 16


@dataclass(frozen=True, kw_only=True)
class Saint(EncoderMethod):
    """Drop even-numbered tokens that enough odd-numbered ones resemble; content decides how many.

    Between attention and feed-forward, a token's look-alikes are the odd-numbered ones whose keys (averaged
    over heads) have a cosine of at least the threshold with its own. A layer drops as many tokens as have
    enough of them, those with the most and closest first. A dropped patch reads the odd token most like it.

    In the form for the towers of multimodal models all tokens are compared with all, and in rounds those with
    the highest summed cosine go until a share is left; a dropped patch reads the kept token most like it.

    Args:
        form: ``bipartite`` or, for a share that is known beforehand, ``graph``.
        layer_keep_share: of the ``graph`` form, in (0, 1]: what each acting layer leaves of its tokens.
        similarity_threshold: cosine from which on two tokens are alike; above 1 nothing is dropped.
        min_similar: look-alikes that make a token one too many.
        sharpness: how much the closeness of look-alikes counts against their number, at least 0.
        batch_mean: all frames of a batch drop the same number, the mean rounded down, as released; frames
            encoded together then influence each other. Otherwise each frame drops its own number.
        layers: see EncoderMethod; None = every layer, for ``graph`` the one in the middle.

    Source: arXiv 2503.11549 and its release, where ``min_similar`` and ``sharpness`` cannot be changed and
    the graph form leaves 375 of 576 patches. Differences: without ``batch_mean`` frames run through the tower
    one by one; equal scores go to the lower token. The form inside the language model is not this stage.
    """

    form: Form = "bipartite"
    layer_keep_share: float = 375 / 576
    similarity_threshold: float = 0.75
    min_similar: int = 5
    sharpness: float = 10.0
    batch_mean: bool = False

    needs: ClassVar[tuple[str, ...]] = ("keys",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in get_args(Form):
            raise UnknownNameError.among("form of saint", self.form, get_args(Form))
        check_share("layer_keep_share", self.layer_keep_share)
        check_number("similarity_threshold", self.similarity_threshold, -1, 2)
        check_count("min_similar", self.min_similar)
        check_number("sharpness", self.sharpness, 0, 1e3)

    @property
    def frame_by_frame(self) -> bool:
        """Unless the batch agrees on a number."""
        return self.form == "bipartite" and not self.batch_mean

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """Every layer, or the one in the middle."""
        return (tower.depth // 2,) if self.form == "graph" else super().own_layers(tower)

    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int | None:
        """Unknown, but for thresholds no cosine reaches and for the graph form."""
        if self.form == "graph":
            return max(1, share_of(tokens, self.layer_keep_share))
        return tokens if self.similarity_threshold > 1 else None

    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Count look-alikes on the layer's keys; at least the odd-numbered half stays."""
        if self.form == "graph":
            return self._reduce_graph(at)
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

    def _reduce_graph(self, at: LayerInput) -> LayerReduction:
        left = max(1, share_of(at.tokens, self.layer_keep_share))
        if left == at.tokens:
            return LayerReduction()
        unit = unit_rows(at.signals.mean_keys())
        kept = least_redundant(unit @ unit.mT, left)
        return LayerReduction(TokenMap.select(kept, like_kept(at.states, kept)))


def least_redundant(similarity: torch.Tensor, left: int) -> torch.Tensor:
    """(frames, left) int64 ascending: drop in rounds the tokens with the highest sums to all still there.

    The first round drops one in 16, and every other one in so many as the round before it dropped, at least
    one, as the release does by using one variable for both.

    Args:
        similarity: (frames, tokens, tokens) float32.
        left: tokens that stay.
    """
    frames, tokens, _ = similarity.shape
    kept = torch.arange(tokens, device=similarity.device).expand(frames, -1)
    sums = similarity.sum(-1)
    divisor = _FIRST_DIVISOR
    while kept.shape[1] > left:
        divisor = max(1, min(kept.shape[1] - left, kept.shape[1] // divisor))
        ranking = highest(sums.gather(1, kept), kept.shape[1])
        gone = kept.gather(1, ranking[:, :divisor])
        kept = kept.gather(1, ranking[:, divisor:].sort(-1).values)
        sums = sums - similarity.gather(2, gone[:, None].expand(-1, tokens, -1)).sum(-1)
    return kept


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
