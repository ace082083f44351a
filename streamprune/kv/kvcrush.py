"""KVCrush: SnapKV's choice, beside a few representatives of what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_number
from streamprune.errors import UnknownNameError
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.view import LayerView
from streamprune.ops.selection import highest, marked

Anchor = Literal["zeros", "ones", "alternating"]


@dataclass(frozen=True, kw_only=True)
class KVCrush(SnapKV):
    """Spend part of the budget on entries that stand for groups of others which heads treat alike.

    An entry's fingerprint has a bit for each query head of the layer: whether the entry is in the half that
    the head votes for most. What the vote leaves out is sorted by how many bits differ from an anchor, and
    entries at even distances along that order stay too.

    Args:
        window, kernel, pooling: see :class:`SnapKV`.
        representatives: share of the budget for them, in [0, 1].
        anchor: bits to compare with: "zeros", "ones" or "alternating" (0101...).

    Source: arXiv 2503.00022, token by token, with the window, the share and the anchor of its port to a
        serving
    engine. The release's random anchor is left out, and its mean anchor equals "zeros": every head's votes
    split in halves. Equal distances stand in the order of the sequence.
    """

    window: int = 16
    representatives: float = 0.25
    anchor: Anchor = "alternating"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("representatives", self.representatives, 0.0, 1.0)
        if self.anchor not in get_args(Anchor):
            raise UnknownNameError.among("anchor", self.anchor, get_args(Anchor))

    def keep(self, view: LayerView, limit: int) -> torch.Tensor:
        """The host's entries and the representatives."""
        protected = self.protected(view)
        room = limit - (0 if protected is None else int(protected.sum(-1).max()))
        # of a budget too small for what is protected the host has to say so
        count = min(share_of(limit, self.representatives), max(0, room))
        if count == limit:
            count -= 1
        host = self.best(view, self.score(view), limit - count)
        if count == 0:
            return host
        return torch.cat([host, self._representatives(view, host, count)], -1).sort(-1).values

    def _representatives(self, view: LayerView, host: torch.Tensor, count: int) -> torch.Tensor:
        """(b, h, count) int64 entries that ``host`` leaves out; padding only when nothing else is left."""
        taken = marked(host, view.held)
        distance = self._distance(view)[:, None].expand(view.tokens.shape)
        # behind all distances: padding, and behind that what the host has
        far = self._far(view)
        distance = distance.masked_fill(view.hidden, far + 1).masked_fill(taken, far + 2)
        order = torch.sort(distance, dim=-1, stable=True).indices
        left = (distance <= far).sum(-1, keepdim=True)
        place = torch.arange(count, device=order.device)
        spread = place * (left - 1).clamp(min=0) // max(1, count - 1)
        return order.gather(-1, torch.where(left >= count, spread, place))

    def _far(self, view: LayerView) -> int:
        """A distance that is larger than any: one more than there are query heads."""
        assert view.queries is not None  # this policy asks for them
        return int(view.queries.shape[1]) + 1

    def _distance(self, view: LayerView) -> torch.Tensor:
        """(b, n) int64 bits of each entry that differ from the anchor; entries of the window are far."""
        votes = self.votes(view).flatten(1, 2)
        older = votes.shape[-1]
        half = (~view.hidden[:, 0, :older]).sum(-1)[:, None, None] // 2
        order = highest(votes, older)
        places = torch.arange(older, device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(-1, order, places)
        heads = torch.arange(votes.shape[1], device=votes.device)[:, None]
        anchor = {"zeros": heads < 0, "ones": heads >= 0, "alternating": heads % 2 == 1}[self.anchor]
        distance = votes.new_full((len(votes), view.held), self._far(view), dtype=torch.int64)
        distance[:, :older] = ((rank < half) != anchor).sum(1)
        return distance
