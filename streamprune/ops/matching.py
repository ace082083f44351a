"""Bipartite soft matching: every second token of a frame may join the most similar of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from streamprune.ops.selection import highest
from streamprune.ops.similarity import cosines, unit_rows


@dataclass(frozen=True)
class Matching:
    """Who joins whom in one round, for every frame on its own.

    Attributes:
        slot: (frames, tokens) int64, the output slot each token goes to; those of one slot become one token.
        kept: (frames, slots) int64, the token that holds each slot: first the even-numbered tokens that
            joined nobody, most similar first (with a class token: in order), then all odd-numbered ones. A
            round that joins none leaves the tokens as they stand.
    """

    slot: torch.Tensor
    kept: torch.Tensor

    def merge(
        self, values: torch.Tensor, size: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The means of the tokens of each slot, weighted by ``size``, and the sums of ``size``.

        Args:
            values: (frames, tokens, channels).
            size: (frames, tokens), None = one each, which is a plain mean.

        Returns:
            (frames, slots, channels) in the dtype of ``values``, summed in float32, and (frames, slots).
        """
        if size is None:
            size = torch.ones(self.slot.shape, device=values.device)
        weight = size.float()
        total = torch.zeros(self.kept.shape, device=values.device).scatter_add(1, self.slot, weight)
        weighted = values.float() * (weight / total.gather(1, self.slot))[..., None]
        summed = weighted.new_zeros(*self.kept.shape, values.shape[-1])
        summed.scatter_add_(1, self.slot[..., None].expand_as(weighted), weighted)
        return summed.to(values.dtype), total

    def unmerge(self, merged: torch.Tensor) -> torch.Tensor:
        """Give every token a copy of its slot: (frames, slots, channels) -> (frames, tokens, channels)."""
        return merged.gather(1, self.slot[..., None].expand(-1, -1, merged.shape[-1]))


def largest_round(tokens: int, *, class_token: bool = False, distillation_token: bool = False) -> int:
    """How many of ``tokens`` one round can join at most."""
    return max(0, (tokens - class_token - distillation_token) // 2)


def bipartite_match(
    metric: torch.Tensor, count: int, *, class_token: bool = False, distillation_token: bool = False
) -> Matching:
    """Let the ``count`` even-numbered tokens that are most like an odd-numbered one join it.

    Args:
        metric: (frames, tokens, channels); tokens are alike by the cosine of these. A zero row is like none
            (cosine 0).
        count: tokens to join; more than :func:`largest_round` means that many, 0 or less none.
        class_token: token 0 is one: it stays, stays first, and nobody joins it.
        distillation_token: token 1 is one: it stays and nobody joins it.

    Source: arXiv 2210.09461. Ties go to the lower token, where the released code leaves them to an unstable
    sort.
    """
    unit = unit_rows(metric)
    return match_by(
        unit[:, ::2] @ unit[:, 1::2].mT, count, class_token=class_token, distillation_token=distillation_token
    )


def match_by(
    similarity: torch.Tensor, count: int, *, class_token: bool = False, distillation_token: bool = False
) -> Matching:
    """:func:`bipartite_match` where the cosines are known.

    Args:
        similarity: (frames, even tokens, odd tokens) float32.
    """
    frames, even, odd = similarity.shape
    limit = largest_round(even + odd, class_token=class_token, distillation_token=distillation_token)
    count = min(max(count, 0), limit)
    if count == 0 or odd == distillation_token:
        tokens = torch.arange(even + odd, device=similarity.device).expand(frames, -1)
        return Matching(tokens, tokens)
    similarity = similarity[:, :, 1:] if distillation_token else similarity
    best, partner = similarity.max(-1)
    partner = partner + int(distillation_token)
    if class_token:
        best[:, 0] = -float("inf")
    ranking = highest(best, even)
    source, left = ranking[:, :count], ranking[:, count:]
    if class_token:
        left = left.sort(-1).values
    slots = torch.arange(even - count + odd, device=similarity.device).expand(frames, -1)
    slot = slots.new_empty(frames, even + odd)
    slot[:, 1::2] = slots[:, even - count :]
    slot.scatter_(1, 2 * left, slots[:, : even - count])
    slot.scatter_(1, 2 * source, even - count + partner.gather(1, source))
    odd_tokens = 2 * torch.arange(odd, device=similarity.device) + 1
    return Matching(slot, torch.cat([2 * left, odd_tokens.expand(frames, -1)], 1))


def joins_per_round(tokens: int, target: int, *, rounds: int | None = None) -> list[int]:
    """How many of a frame's ``tokens`` join another one in each round, until ``target`` are left.

    Never more than half of what is left. With ``rounds`` as even as that allows, else as many as possible.
    """
    counts: list[int] = []
    while tokens > target:
        share = tokens - target
        if rounds is not None:
            share = -(-share // max(1, rounds - len(counts)))
        counts.append(min(share, tokens // 2))
        tokens -= counts[-1]
    return counts


@dataclass(frozen=True)
class Rounds:
    """What several rounds make of the tokens they began with.

    Attributes:
        slot: (frames, tokens) int64, the slot of the last round each token ended in.
        kept: (frames, slots) int64, the token that holds each slot.
        weight: (frames, tokens) float32, each token's share of its slot; those of a slot sum to 1.
    """

    slot: torch.Tensor
    kept: torch.Tensor
    weight: torch.Tensor


def match_rounds(
    products: torch.Tensor,
    counts: Sequence[int],
    *,
    size: torch.Tensor | None = None,
    equal_shares: bool = False,
) -> Rounds:
    """Match and merge ``len(counts)`` times, each round on the merged tokens of the one before.

    The inner products of merged tokens follow from those of the first ones, so features are looked at once.

    Args:
        products: (frames, tokens, tokens) float32 Gram matrices.
        counts: tokens to join in each round; at most half of what is left are joined.
        size: (frames, tokens) how much each token counts in the means, None = one each.
        equal_shares: the tokens of a slot count the same in each round, whatever they are made of.
    """
    frames, tokens = products.shape[:2]
    slot = kept = torch.arange(tokens, device=products.device).expand(frames, -1)
    weight = torch.ones(frames, tokens, device=products.device)
    mass = weight if size is None or equal_shares else size.float()
    for count in counts:
        matching = match_by(cosines(products)[:, ::2, 1::2], count)
        total = torch.zeros(matching.kept.shape, device=mass.device).scatter_add(1, matching.slot, mass)
        share = mass / total.gather(1, matching.slot)
        blend = torch.zeros(*total.shape, share.shape[1], device=mass.device)
        blend.scatter_(1, matching.slot[:, None], share[:, None])
        products = blend @ products @ blend.mT
        weight = weight * share.gather(1, slot)
        slot, kept = matching.slot.gather(1, slot), kept.gather(1, matching.kept)
        mass = torch.ones_like(total) if equal_shares else total
    return Rounds(slot, kept, weight)
