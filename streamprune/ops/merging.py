"""Turning "who joins whom" into the weights of a Reduction."""

from __future__ import annotations

import torch

Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def blend_into_anchors(
    anchors: torch.Tensor, members: torch.Tensor, joined: torch.Tensor, weight_floor: float
) -> Entries:
    """Blend each anchor with the mean of the tokens that joined it.

    With ``n`` members an anchor keeps the weight ``w = max(1 / (n + 1), weight_floor)`` and its members share
    ``1 - w`` equally; without members it stays as it is. An anchor may be a member, of itself too.

    Args:
        anchors: (anchors,) int64 token ids, unique.
        members: (members,) int64 token ids; one may join several anchors, each at most once.
        joined: (members,) int64, which anchor (0 to anchors - 1) each member joined.
        weight_floor: in [0, 1].

    Returns:
        (anchor token id, token id, weight), three (entries,) tensors with every pair once; the weights of an
        anchor sum to 1.
    """
    count = torch.bincount(joined, minlength=len(anchors)).float()
    own = (1 / (count + 1)).clamp(min=weight_floor)
    share = (1 - own) / count.clamp(min=1)
    target = anchors[joined]
    to_itself = members == target
    weight = share[joined] + torch.where(to_itself, own[joined], 0.0)
    alone = torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)
    alone[joined[to_itself]] = False
    return (
        torch.cat([anchors[alone], target]),
        torch.cat([anchors[alone], members]),
        torch.cat([own[alone], weight]),
    )


def add_member_means(anchors: torch.Tensor, members: torch.Tensor, joined: torch.Tensor) -> Entries:
    """Add to each anchor the mean of the tokens that joined it; without members it stays as it is.

    Arguments and result as for :func:`blend_into_anchors`, except that the weights of an anchor with members
    sum to 2 and that no anchor may be a member.
    """
    count = torch.bincount(joined, minlength=len(anchors)).float()
    return (
        torch.cat([anchors, anchors[joined]]),
        torch.cat([anchors, members]),
        torch.cat([torch.ones(len(anchors), device=anchors.device), 1 / count[joined]]),
    )


def weighted_means(
    rows: torch.Tensor,
    weights: torch.Tensor,
    target: torch.Tensor,
    places: torch.Tensor,
    changed: torch.Tensor,
) -> torch.Tensor:
    """(..., kept, width): ``rows`` at ``places``; where ``changed``, the mean of all that are to go there.

    Args:
        rows: (..., n, width), of the result's dtype; means are computed in float32 or wider.
        weights: (..., n) what each row counts.
        target: (..., n) int64, where each row goes.
        places: (..., kept) int64. changed: (..., kept) bool.
    """
    wide = torch.promote_types(rows.dtype, torch.float32)
    taken = places[..., None].expand(*places.shape, rows.shape[-1])
    weighed = rows.to(wide) * weights[..., None].to(wide)
    sums = torch.zeros_like(weighed).scatter_add_(-2, target[..., None].expand_as(weighed), weighed)
    totals = torch.zeros_like(weights).scatter_add_(-1, target, weights).gather(-1, places)
    means = sums.gather(-2, taken) / totals[..., None].to(wide)
    return torch.where(changed[..., None], means.to(rows.dtype), rows.gather(-2, taken))
