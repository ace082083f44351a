"""METok in the cache: key events keep some entries in the middle layers, the last layers keep text alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_share
from streamprune.errors import InvalidValueError
from streamprune.kv.base import Decoding, Policy, always_above, segments_of
from streamprune.kv.view import NOT_LABELLED, PROMPT_TEXT, LayerView
from streamprune.ops.segments import cut_transitions
from streamprune.ops.selection import highest
from streamprune.ops.similarity import adjacent_cosine

# layers of the release, of 28
_FIRST, _LAST, _DEPTH = 3, 19, 28


@dataclass(frozen=True, kw_only=True)
class METokCache(Policy):
    """Keep, of the events that the question looks at most, what it looks at most; text stays everywhere.

    Without a budget, as published: layers below ``first_layer`` keep everything, those below
    ``text_from_layer`` keep of every key event ``event_ratio`` of ``event_ratio`` of its entries, each
    rounded up, and nothing of other events; the rest keep text alone. With a budget every layer holds that
    much: what the middle layers would keep first, then what their first stage would (half of ``event_ratio``
    of other events), then the rest.

    Events are runs of frames, cut where the mean values of neighbouring frames are least alike. An event
    counts as much as the frame in it that is looked at most, by the attention of the text behind the video,
    mean over heads and queries; all heads keep the same.

    Args:
        first_layer, text_from_layer: None = 3 and 19 of 28, scaled to the depth.
        event_ratio: share kept of a key event's entries at each of two stages, in (0, 1].
        num_cuts: events less one (fewer in shorter clips).
        num_key_events: how many of the events that count most are key events.
        window: of the text behind the video the last so many tokens are asked.

    Source: arXiv 2506.02850 and its release, the trimming of caches after the prompt, on its own. There the
    events and what they count come from a SigLIP text tower, and the middle layers keep what two earlier
    layers chose; here each layer goes by its own attention. The prompt's text stays, so a budget must leave
    room for it. A prompt without visual tokens drops nothing, unless a budget says so.
    """

    first_layer: int | None = None
    text_from_layer: int | None = None
    event_ratio: float = 0.76
    num_cuts: int = 4
    num_key_events: int = 3
    window: int = 64
    decoding: Decoding = "grow"

    needs: ClassVar[tuple[str, ...]] = ("queries", "segments")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first_layer", "text_from_layer", "num_cuts"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), least=0)
        check_share("event_ratio", self.event_ratio)
        check_count("num_key_events", self.num_key_events)
        check_count("window", self.window)
        first, last = self.first_layer, self.text_from_layer
        if first is not None and last is not None and first > last:
            raise InvalidValueError(f"first_layer={first} must be no more than text_from_layer={last}")

    @property
    def keeps_all(self) -> bool:
        """With a share of 1 alone; without any budget the method has its own."""
        return self.keep_ratio == 1

    @property
    def _as_published(self) -> bool:
        return self.keep_ratio is None and self.keep_tokens is None and self.keep_bytes is None

    def query_rows(self, new: int) -> int:
        """The end of a prompt; tokens of an answer are not asked."""
        return min(self.window, new)

    def limit(self, view: LayerView, entry_bytes: int) -> int:
        """The budget's, or as many as are to be kept."""
        if not self._as_published:
            return super().limit(view, entry_bytes)
        visual = _visual(view)
        first = _scaled(_FIRST, view.depth) if self.first_layer is None else self.first_layer
        last = _scaled(_LAST, view.depth) if self.text_from_layer is None else self.text_from_layer
        if view.layer < first or view.decoding or not bool(visual[..., view.held - view.new :].any()):
            return view.held
        stays = ~visual & ~view.hidden
        if view.layer < last:
            stays = stays | (self.score(view) >= 2)
        return max(1, int(stays.sum(-1).max()))

    def protected(self, view: LayerView) -> torch.Tensor:
        """The prompt's text, beside what the options protect."""
        own = (segments_of(view) == PROMPT_TEXT) & ~view.hidden
        given = super().protected(view)
        return own if given is None else own | given

    def keep(self, view: LayerView, limit: int) -> torch.Tensor:
        """By score; later text above."""
        later = (segments_of(view) == NOT_LABELLED) & ~view.hidden
        return self.best(view, always_above(self.score(view), later), limit)

    def score(self, view: LayerView) -> torch.Tensor:
        """Attention, mean over heads: 2 more for what both stages keep, 1 more for what one does."""
        looked_at = self._attention(view)
        scores = looked_at.clone()
        visual = _visual(view)[:, 0]
        for row, found in enumerate(visual):
            entries = found.nonzero()[:, 0]
            if len(entries):
                means = view.values[row][:, entries].float().transpose(0, 1).flatten(1)
                frames = segments_of(view)[row, 0, entries]
                scores[row, entries] += self._stages(frames, means, looked_at[row, entries])
        return scores[:, None].expand(view.tokens.shape)

    def _attention(self, view: LayerView) -> torch.Tensor:
        """(b, n) in [0, 1]: mean attention of the queries that stand behind all visual entries."""
        rows = view.attention(min(self.window, view.new)).flatten(1, 2).mean(1)
        asked = rows.shape[-2]
        behind = ~_visual(view)[:, 0].flip(-1).cummax(-1).values.flip(-1)[:, view.held - asked :]
        behind = torch.where(behind.any(-1, keepdim=True), behind, True)
        return (rows * behind[..., None]).sum(-2) / behind.sum(-1, keepdim=True)

    def _stages(self, frames: torch.Tensor, means: torch.Tensor, looked_at: torch.Tensor) -> torch.Tensor:
        """(entries,) how many of the two stages keep each of the entries of one video."""
        _, frame = torch.unique(frames, return_inverse=True)
        ranges = cut_transitions(adjacent_cosine(_by_frame(means, frame)), at_least=self.num_cuts)
        by_frame = _by_frame(looked_at[:, None], frame)[:, 0]
        counts = torch.stack([by_frame[start:stop].amax() for start, stop in ranges])
        key = set(highest(counts, self.num_key_events).tolist())
        kept = torch.zeros_like(looked_at)
        for event, (start, stop) in enumerate(ranges):
            own = ((frame >= start) & (frame < stop)).nonzero()[:, 0]
            order = own[highest(looked_at[own], len(own))]
            ratio = self.event_ratio if event in key else self.event_ratio / 2
            left = share_of(len(own), ratio, rounding="ceil")
            kept[order[:left]] += 1
            if event in key:
                kept[order[: share_of(left, self.event_ratio, rounding="ceil")]] += 1
        return kept


def _visual(view: LayerView) -> torch.Tensor:
    """(b, h, n) bool: entries of frames."""
    return (segments_of(view) >= 0) & ~view.hidden


def _scaled(number: int, depth: int) -> int:
    return max(1, number * depth // _DEPTH)


def _by_frame(values: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """(frames, channels) means of (entries, channels); every frame has entries."""
    sums = values.new_zeros(int(frame.max()) + 1, values.shape[1]).index_add_(0, frame, values)
    return sums / torch.bincount(frame)[:, None]
