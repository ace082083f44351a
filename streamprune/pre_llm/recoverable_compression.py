"""Recoverable Compression: keep what stands out to the tower and to the question, merge the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import Budget, share_of, split_by_weight
from streamprune.checks import check_count, check_flag, check_instead_of_budget, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.merging import Entries
from streamprune.ops.outliers import local_outlier_factors
from streamprune.ops.relevance import token_relevance
from streamprune.ops.selection import highest, marked
from streamprune.ops.similarity import unit_rows
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Recovery = Literal["others", "union"]

_OUTLIER_FACTOR = 1.5
_OUTLIER_NEIGHBORS: dict[Recovery, int] = {"others": 20, "union": 10}
_CENTRE_NEIGHBORS = 10
# with fewer tokens to keep, none becomes a centre
_LEAST_WITH_CENTRES = 4


@dataclass(frozen=True)
class _Frame:
    """What one frame decides by: ``attention`` and ``text`` (tokens,), ``keys`` (tokens, dim) of length 1.

    ``scale`` is what a likeness counts against a cosine of keys.
    """

    attention: torch.Tensor
    text: torch.Tensor
    keys: torch.Tensor
    scale: float


@dataclass(frozen=True, kw_only=True)
class RecoverableCompression(PreLLMMethod):
    """Keep tokens salient to the tower, recover tokens like the question, and sum up the others.

    Needs ``saliency`` (frames, rows, cols), ``keys`` (frames, rows, cols, dim), ``text_embeds`` (pieces,
    channels) and ``image_embeds`` (frames, rows, cols, channels). A token's likeness to the question is its
    cosine with the mean of the pieces at length 1.

    Each frame decides alone. How many tokens are kept, recovered and made centres follows how many of the
    saliencies, likenesses and remaining saliencies are outliers among their neighbours in value. The
    highest are taken. A centre becomes itself plus the tokens nearest to it by key and question, each times
    its saliency; one more token is the sum of all that are no centre, times their saliency. These sums are
    not normalised, as released. A frame emits the tokens kept in place, then centres by saliency, then the
    sum, which stands at the most salient of its tokens. Without centres there is no sum.

    With ``outlier_factor`` and no budget the shares are the outliers themselves, as released; with a budget
    they split it, each counting at least one, and tokens are recovered among those not yet kept.

    Args:
        outlier_factor: local outlier factor from which on a number is an outlier, at least 1 (released: 1.5).
        recovery: ``others`` counts outliers after the likeness of tokens already kept was lowered to the
            least, and recovers only others (what the release runs); ``union`` counts and takes among all.
        outlier_neighbors: numbers compared with; None = as released, 20 for ``others`` and 10 for ``union``.
        merge_neighbors: tokens added to a centre.
        text_weight: of the likeness, divided by the root of its channels, against the cosine of keys.
        own_keys: compare tokens by their own keys. The release loses count of them once tokens are taken
            out, and compares the i-th token left by the i-th key of the frame.

    Source: AAAI 2025 Recoverable Compression, and a public copy of its code. Differences: the release takes
    attention and keys of the heads as one vector, here they are the heads' mean. At least one token of a
    frame is kept where nothing is an outlier. A frame with fewer than 4 tokens to keep gets no centres.
    """

    outlier_factor: float | None = None
    recovery: Recovery = "others"
    outlier_neighbors: int | None = None
    merge_neighbors: int = 32
    text_weight: float = 50.0
    own_keys: bool = False

    needs: ClassVar[tuple[str, ...]] = ("saliency", "keys", "text_embeds", "image_embeds")
    causal: ClassVar[bool] = True
    instead_of_budget: ClassVar[tuple[str, ...]] = ("outlier_factor",)

    def __post_init__(self) -> None:
        if self.recovery not in get_args(Recovery):
            raise UnknownNameError.among(
                "recovery of recoverable_compression", self.recovery, get_args(Recovery)
            )
        if self.outlier_factor is not None:
            check_number("outlier_factor", self.outlier_factor, 1, float("inf"))
        if self.outlier_neighbors is not None:
            check_count("outlier_neighbors", self.outlier_neighbors)
        check_count("merge_neighbors", self.merge_neighbors)
        check_number("text_weight", self.text_weight, 0, float("inf"))
        check_flag("own_keys", self.own_keys)
        given = self.budget != Budget()
        options = {"outlier_factor": self.outlier_factor}
        check_instead_of_budget("recoverable_compression", options, budget_given=given)

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Only without an outlier factor."""
        return self.outlier_factor is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """The same for every frame, unless outliers decide."""
        if self.outlier_factor is not None:
            return None
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Count outliers of all frames at once, then decide frame by frame."""
        grid = tokens.grid
        shape = (grid.frames, grid.rows, grid.cols)
        attention = tokens.signal("saliency", shape).float().flatten(1)
        keys = tokens.signal("keys", (*shape, None)).flatten(0, 2)
        question = tokens.signal("text_embeds", (None, None))
        images = tokens.signal("image_embeds", (*shape, question.shape[1]))
        text = token_relevance(images.flatten(1, 2), question)
        keys = unit_rows(keys).reshape(*attention.shape, -1)
        salient = self._outliers(attention)
        alike = self._outliers(self._recoverable(attention, text, salient))
        total = None
        if self.outlier_factor is None:
            total = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        scale = self.text_weight * question.shape[1] ** -0.5
        emitted, entries = [], []
        for frame in range(grid.frames):
            given = _Frame(attention[frame], text[frame], keys[frame], scale)
            stays, centres = self._choose(given, salient[frame], alike[frame], total)
            rows, (target, member, weight) = self._merge(given, stays, centres)
            first = frame * grid.tokens_per_frame
            emitted.append(rows + first)
            entries.append((target + first, member + first, weight))
        target, member, weight = (torch.cat(column) for column in zip(*entries, strict=True))
        by_member = torch.sort(member, stable=True).indices
        target, member, weight = target[by_member], member[by_member], weight[by_member]
        order = torch.cat(emitted)
        index = order.sort().values
        row, order = torch.searchsorted(index, target), torch.searchsorted(index, order)
        return Reduction.merge(tokens, index, (row, member, weight), order=order)

    def _outliers(self, values: torch.Tensor, neighbors: int | None = None) -> list[int]:
        """How many numbers of each row of (rows, numbers) are outliers."""
        if neighbors is None:
            neighbors = self.outlier_neighbors or _OUTLIER_NEIGHBORS[self.recovery]
        factor = _OUTLIER_FACTOR if self.outlier_factor is None else self.outlier_factor
        counts: list[int] = (local_outlier_factors(values, neighbors) > factor).sum(1).tolist()
        return counts

    def _recoverable(self, attention: torch.Tensor, text: torch.Tensor, salient: list[int]) -> torch.Tensor:
        """(frames, tokens) likenesses of which outliers are counted."""
        if self.recovery == "union":
            return text
        tokens = text.shape[1]
        counts = torch.tensor([_kept(tokens, outliers) for outliers in salient], device=text.device)
        among_kept = torch.arange(tokens, device=text.device) < counts[:, None]
        kept = torch.zeros_like(among_kept).scatter_(1, highest(attention, tokens), among_kept)
        return torch.where(kept, text.amin(1, keepdim=True), text)

    def _choose(self, frame: _Frame, salient: int, alike: int, total: int | None) -> tuple[torch.Tensor, int]:
        """Which tokens of a frame stay unchanged, (tokens,) bool, and how many centres there are."""
        tokens = len(frame.attention)
        ranking = highest(frame.attention, tokens)
        kept, centres = _kept(tokens, salient), 0
        union = total is None and self.recovery == "union"
        if total is not None:
            rest = frame.attention[ranking[kept:].sort().values]
            kept, recovered, centres = self._split(total, tokens, salient, alike, rest)
        else:
            recovered = share_of(tokens - (0 if union else kept), alike / tokens, rounding="truncate")
        salient_mask = marked(ranking[:kept], tokens)
        candidates = frame.text if union else frame.text.masked_fill(salient_mask, -torch.inf)
        stays = salient_mask | marked(highest(candidates, recovered), tokens)
        rest = frame.attention[~stays]
        if total is None and len(rest):
            thin = self._outliers(rest[None], _CENTRE_NEIGHBORS)[0]
            # the share of outliers among the others is taken of those kept: the release reuses a name
            whole = tokens if union else tokens - len(rest)
            centres = min(share_of(whole, thin / len(rest), rounding="truncate"), len(rest))
        return stays, centres

    def _split(
        self, total: int, tokens: int, salient: int, alike: int, rest: torch.Tensor
    ) -> tuple[int, int, int]:
        """Tokens to keep, to recover and to make centres of with a budget; the sum takes one of it."""
        weights = [max(1, salient), max(1, alike)]
        if total >= _LEAST_WITH_CENTRES:
            thin = max(1, self._outliers(rest[None], _CENTRE_NEIGHBORS)[0])
            kept, recovered, centres = split_by_weight(total - 1, [*weights, thin], [tokens] * 3)
            if centres > 0:
                return kept, recovered, centres
        kept, recovered = split_by_weight(total, weights, [tokens] * 2)
        return kept, recovered, 0

    def _merge(self, frame: _Frame, stays: torch.Tensor, centres: int) -> tuple[torch.Tensor, Entries]:
        """The tokens of one frame that have a row, as emitted, and what their rows are made of."""
        unchanged, rest = stays.nonzero()[:, 0], (~stays).nonzero()[:, 0]
        ones = torch.ones(len(unchanged), device=unchanged.device)
        if centres == 0:
            return unchanged, (unchanged, unchanged, ones)
        attention = frame.attention[rest]
        ranking = highest(attention, len(rest))
        centre, other = ranking[:centres], ranking[centres:]
        keys = frame.keys[rest] if self.own_keys else frame.keys[: len(rest)]
        nearness = keys[centre] @ keys.T + frame.scale * frame.text[rest]
        nearness.scatter_(1, centre[:, None], -torch.inf)
        near = highest(nearness, min(self.merge_neighbors, len(rest) - 1))
        into = centre[:, None].expand_as(near)
        target = torch.cat([unchanged, rest[centre], rest[into.flatten()], rest[other[:1].expand_as(other)]])
        member = torch.cat([unchanged, rest[centre], rest[near.flatten()], rest[other]])
        own = torch.ones(centres, device=ones.device)
        weight = torch.cat([ones, own, attention[near.flatten()], attention[other]])
        emitted = torch.cat([unchanged, rest[centre], rest[other[:1]]])
        counts = weight != 0
        return emitted, (target[counts], member[counts], weight[counts])


def _kept(tokens: int, outliers: int) -> int:
    return max(1, share_of(tokens, outliers / tokens, rounding="truncate"))
