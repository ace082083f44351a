"""ZeroMerge: what would be dropped is averaged into a few entries that count for as many tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.nn.functional import max_pool1d

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number, check_share
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.kv.accumulated import AccumulatedAttention
from streamprune.kv.base import Replacement, always_above
from streamprune.kv.view import LayerView
from streamprune.ops.merging import weighted_means
from streamprune.ops.selection import highest, marked

Similarity = Literal["dot", "distance"]
MergedScore = Literal["max", "sum"]

# newest tokens that stay at least
_LEAST_RECENT = 2


@dataclass(frozen=True, kw_only=True)
class ZeroMerge(AccumulatedAttention):
    """Keep the newest tokens and those attended to most; average all others into a few merged entries.

    A merged entry that stands for ``w`` tokens gets up to ``w`` times the attention of one: the logits gain
    ``compensation * log(w)``, so that merging equal entries changes nothing at all. The first time a layer is
    over its budget, what is left over is cut, in the order of the sequence, into as many even groups as there
    are merged entries; from then on each entry that has to go joins the merged entry nearest to it. Merged
    entries stand where the oldest of their first members stood; they need "sdpa" or "eager" attention.

    Args:
        recent_share: share of the budget for the newest tokens, at least 2 of them.
        merged_entries: entries that take the others in, 1 or more.
        merged_share: so many in place of ``merged_entries``, as a share of the budget without the newest.
        forgetting: factor that attention already received loses with every later query, in [0, 1].
        compensation: strength of the correction, 0 = none, 1 = exact for equal entries.
        similarity: "dot" joins the merged entry whose key has the largest inner product with its own,
            "distance" the one with the smallest distance.
        merged_score: attention received of a merged entry: the "max" of its members' or their "sum".
        window: judge a prompt by the attention of its last so many tokens; None = by all of them.
        kernel: entries over which the largest vote of such a window is taken, odd.

    Source: arXiv 2503.10714 and its release, in the first form, where every query of the prompt counts;
    ``window=8`` is the later one (ZSMerge). Attention is averaged over the query heads of a group, where
    the release sums, which orders entries alike. A cache that fills up while it decodes makes its merged
    entries as a prompt does; the release takes its first ones for it, on which attention rests. Keys are
    averaged as they are rotated. What the user's options protect is never merged.
    """

    recent_share: float = 0.1
    merged_entries: int = 1
    merged_share: float | None = None
    forgetting: float = 0.98
    compensation: float = 1.0
    similarity: Similarity = "dot"
    merged_score: MergedScore = "max"
    window: int | None = None
    kernel: int = 5

    merges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("merged_entries", self.merged_entries)
        if self.merged_share is not None:
            check_share("merged_share", self.merged_share)
        check_number("forgetting", self.forgetting, 0.0, 1.0)
        check_number("compensation", self.compensation, 0.0, 10.0)
        if self.similarity not in get_args(Similarity):
            raise UnknownNameError.among("similarity", self.similarity, get_args(Similarity))
        if self.merged_score not in get_args(MergedScore):
            raise UnknownNameError.among("merged_score", self.merged_score, get_args(MergedScore))
        if self.window is not None:
            check_count("window", self.window)
        check_count("kernel", self.kernel)
        if self.kernel % 2 == 0:
            raise InvalidValueError(f"kernel must be odd, got {self.kernel}")

    @property
    def decay(self) -> float:
        """The forgetting factor."""
        return self.forgetting

    def query_rows(self, new: int) -> int:
        """The window, or all."""
        return new if self.window is None else min(self.window, new)

    def observe(self, view: LayerView) -> Mapping[str, torch.Tensor]:
        """Attention received; "weight" is the number of tokens of a merged entry, 0 of any other."""
        received = view.received(decay=self.decay)
        if self.window is not None and view.new > 1:
            received = max_pool1d(received, self.kernel, 1, self.kernel // 2)
        before = view.state.get("received")
        if before is not None:
            received = before * self.decay**view.new + received
        return {"received": received, "weight": view.state.get("weight", torch.zeros_like(received))}

    def bias(self, state: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Logarithms of the weights."""
        return self.compensation * _weights(state).log()

    def keep(self, view: LayerView, limit: int) -> torch.Tensor:
        """The newest, the best, and the merged ones."""
        return self._chosen(view, limit)[0]

    def reduced(self, view: LayerView, limit: int) -> Replacement:
        """Everything that is not kept goes into a merged entry."""
        chosen, taking = self._chosen(view, limit)
        places = torch.arange(view.held, device=chosen.device).expand(chosen.shape[0], chosen.shape[1], -1)
        leaving = ~marked(chosen, view.held) & ~view.hidden & taking.any(-1, keepdim=True)
        again = (view.state["weight"] > 0).any(-1, keepdim=True)
        behind = torch.where(taking, places, 0).cummax(-1).values
        joined = torch.where(again, self._nearest(view, taking, behind), behind)
        target = torch.where(leaving, joined, places)
        weights = _weights(view.state).masked_fill(view.hidden, 0.0)
        changed = taking.gather(-1, chosen)
        received = view.state["received"]
        how = "sum" if self.merged_score == "sum" else "amax"
        gathered = received.scatter_reduce(-1, target, received, how, include_self=False)
        total = torch.zeros_like(weights).scatter_add_(-1, target, weights)
        return Replacement(
            chosen,
            weighted_means(view.keys, weights, target, chosen, changed),
            weighted_means(view.values, weights, target, chosen, changed),
            {
                "received": gathered.gather(-1, chosen),
                "weight": torch.where(changed, total.gather(-1, chosen), 0.0),
            },
            newest=view.tokens.masked_fill(~leaving, -1).max(),
        )

    def _shares(self, limit: int) -> tuple[int, int]:
        """Of ``limit`` entries: how many of the newest stay, and how many are merged ones."""
        recent = min(limit, max(_LEAST_RECENT, share_of(limit, self.recent_share)))
        merged = self.merged_entries
        if self.merged_share is not None:
            merged = max(1, share_of(limit - recent, self.merged_share))
        merged = min(merged, max(1, limit - recent))
        return min(recent, limit - merged), merged

    def _chosen(self, view: LayerView, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
        """((b, h, limit) entries that stay, ascending; (b, h, n) bool which of them take others in)."""
        recent, merged = self._shares(limit)
        before = view.state["weight"] > 0
        scores = always_above(view.state["received"], view.newest(recent) & ~before)
        again = self.best(view, always_above(scores, before), limit)
        best = marked(self.best(view, scores, limit - merged), view.held)
        left = ~best & ~view.hidden
        first = _group_starts(left, merged)
        # behind those: what is left where nothing has to be merged, then padding
        order = 3 * best + 2 * first.logical_or(left & ~_any(first)).float()
        anew = highest(order, limit).sort(-1).values
        chosen = torch.where(_any(before), again, anew)
        return chosen, torch.where(_any(before), before, first)

    def _nearest(self, view: LayerView, taking: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        """(b, h, n) int64: of the entries ``taking`` others in the one most like each entry."""
        most = int(taking.sum(-1).max())
        if most <= 1:
            return otherwise if most == 0 else taking.float().argmax(-1, keepdim=True).expand(taking.shape)
        places = highest(taking.float(), most)
        keys = view.keys.float()
        theirs = keys.gather(2, places[..., None].expand(*places.shape, keys.shape[-1]))
        alike = keys @ theirs.transpose(-1, -2)
        if self.similarity == "distance":
            alike = 2 * alike - theirs.square().sum(-1)[:, :, None]
        alike = alike.masked_fill(~taking.gather(-1, places)[:, :, None], -torch.inf)
        # of equal ones the oldest
        return places.gather(-1, alike.argmax(-1))


def _weights(state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(b, h, n) tokens that each entry stands for."""
    return state["weight"].clamp(min=1.0)


def _any(entries: torch.Tensor) -> torch.Tensor:
    return entries.any(-1, keepdim=True)


def _group_starts(left: torch.Tensor, groups: int) -> torch.Tensor:
    """(b, h, n) bool: the first member of each of ``groups`` even groups of the entries ``left``, in order.

    The first groups have one member more where it does not divide. Nothing where there are no more entries
    than groups.
    """
    total = left.sum(-1, keepdim=True)
    size, larger = total // groups, total % groups
    rank = left.cumsum(-1) - 1
    inside = larger * (size + 1)
    start = torch.where(rank < inside, rank % (size + 1) == 0, (rank - inside) % size.clamp(min=1) == 0)
    return start & left & (total > groups)
