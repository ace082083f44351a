"""Bipartite soft matching: every second token of a frame may join the most similar of the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows


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
