"""METok inside the language model: key events lose a little at every stage, the others nearly everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_share
from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.segments import cut_transitions
from streamprune.ops.selection import highest, marked
from streamprune.ops.similarity import adjacent_cosine

_STAGES = 3


@dataclass(frozen=True, eq=False)
class Events:
    """Which event each visual token that is left belongs to, and which events are key events.

    Attributes:
        event: (visual,) int64, ascending.
        key: (events,) bool.
    """

    event: torch.Tensor
    key: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class METokInner(InLLMMethod):
    """Keep of every event the visual tokens that the rows behind the video look at most.

    The attention is that of the layer below, mean over heads and these rows. At the first stage a key event
    keeps ``event_ratio`` of its tokens and any other half of that, rounded up; at the second a key event
    keeps ``event_ratio`` of what is left and the others nothing; at the third no visual token goes on.

    Events are runs of frames, cut where the mean tokens of neighbouring frames, as they entered the language
    model, are least alike. An event counts as much as the frame in it that is looked at most, by the same
    attention, mean over the frame's tokens. Where the visual tokens are not those of one video, all are one
    key event.

    With ``keep_ratio`` or ``keep_tokens``, so many go on after the last stage, those looked at most; earlier
    stages then never keep fewer than that. As published none do.

    Args:
        layers: the layers before which tokens are dropped, three of them; None = 3, 10 and 19 of 28, scaled
            to the depth. Where that makes one layer of several, it is the last of their stages.
        event_ratio: share kept of a key event's tokens, in (0, 1].
        num_cuts: events less one (fewer in shorter clips).
        num_key_events: how many of the events that count most are key events.

    Ties go to the token further ahead.

    Source: arXiv 2506.02850 and its release, the part inside the language model. There the events and what
    they count are those of the part before it, by a SigLIP text tower; it also trims the caches of the layers
    in between to the last survivors, which are left alone here.
    """

    layers: tuple[int, ...] | None = None
    event_ratio: float = 0.76
    num_cuts: int = 4
    num_key_events: int = 3

    needs: ClassVar[tuple[str, ...]] = ("attention", "grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        if self.layers is not None and len(self.layers) != _STAGES:
            raise InvalidValueError(f"layers must be three numbers, one for each stage, got {self.layers}")
        check_share("event_ratio", self.event_ratio)
        check_count("num_cuts", self.num_cuts, least=0)
        check_count("num_key_events", self.num_key_events)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The layers as given, or those of the release."""
        return self.layers or tuple(sorted(set(_scaled(depth))))

    def stage(self, cut: int, depth: int) -> int:
        """Which of the three stages decision ``cut`` is, from 0."""
        if self.layers is not None:
            return cut
        layer = self.cuts(depth)[cut]
        return max(stage for stage, number in enumerate(_scaled(depth)) if number == layer)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        attention = view.before.attention(view.after)[:, :, view.visual]
        scores = attention.mean((0, 1))
        events = self.events(view, scores) if view.carried is None else view.carried
        stays = self.published_choice(scores, events, self.stage(view.cut, view.depth))
        if self.budget.is_given:
            count = self.budget.tokens(view.visual_at_first)
            if view.cut == len(self.cuts(view.depth)) - 1:
                stays = marked(highest(scores, count), len(scores))
            elif int(stays.sum()) < count:
                # what is kept anyway comes first
                stays = marked(highest(scores + stays, count), len(scores))
        chosen = stays.nonzero()[:, 0]
        carried = Events(events.event[chosen], events.key)
        return Decision(view.kept_with_text(chosen), carried=carried)

    def published_choice(self, scores: torch.Tensor, events: Events, stage: int) -> torch.Tensor:
        """(visual,) bool: which tokens go on after ``stage``, whatever the budget."""
        stays = torch.zeros_like(scores, dtype=torch.bool)
        if stage == _STAGES - 1:
            return stays
        for event, key in enumerate(events.key.tolist()):
            own = (events.event == event).nonzero()[:, 0]
            share = self.event_ratio if key else self.event_ratio / 2
            if len(own) > 0 and (key or stage == 0):
                count = share_of(len(own), share, rounding="ceil")
                stays[own[highest(scores[own], count)]] = True
        return stays

    def events(self, view: PromptView, scores: torch.Tensor) -> Events:
        """The events of the video, and which are key events."""
        if view.grid is None or view.places is None:
            return Events(torch.zeros_like(view.visual), scores.new_ones(1, dtype=torch.bool))
        # the number of each token's frame among the frames that have any left
        _, frame = torch.unique(view.grid.places(view.places)[0], return_inverse=True)
        embeds = _frame_means(view.embeds[view.visual].float(), frame)
        ranges = cut_transitions(adjacent_cosine(embeds), at_least=self.num_cuts)
        looked_at = _frame_means(scores[:, None], frame)[:, 0]
        best = torch.stack([looked_at[start:stop].amax() for start, stop in ranges])
        lengths = torch.tensor([stop - start for start, stop in ranges], device=frame.device)
        event_of = torch.repeat_interleave(torch.arange(len(ranges), device=frame.device), lengths)
        return Events(event_of[frame], marked(highest(best, self.num_key_events), len(best)))


def _scaled(depth: int) -> tuple[int, ...]:
    return tuple(scaled_layer(number, 28, depth) for number in (3, 10, 19))


def _frame_means(values: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """(frames, channels) mean of (tokens, channels) over the tokens of each frame; every frame has some."""
    sums = values.new_zeros(int(frame[-1]) + 1, values.shape[1]).index_add_(0, frame, values)
    return sums / torch.bincount(frame)[:, None]
