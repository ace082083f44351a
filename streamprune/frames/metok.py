"""METok's events: cut where the picture changes most, look hardest at the events the question is about."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from streamprune.budget import share_of, split_evenly
from streamprune.checks import check_count, check_number
from streamprune.frames.content import Floats, Previews, RelevanceMethod, spread_over, unit_rows


@dataclass(frozen=True, kw_only=True)
class METokFrames(RelevanceMethod):
    """Cut the candidates into events and give the key events most of the frames.

    Needs ``mean_features`` and ``relevance``. The ``num_cuts`` weakest transitions are cut; the
    ``num_key_events`` events with the most relevant frame are key. ``key_share`` of the frames are the most
    relevant ones of key events, as many of each as their lengths allow; the rest is spread over the other
    events.

    Args:
        num_cuts: events less one, 0 or more (fewer candidates: each is an event).
        num_key_events: 0 or more.
        key_share: in [0, 1].

    Source: arXiv 2506.02850, section 3.2. The paper keeps every frame and pools those of other events more;
    here, before the tower, they are looked at less often, and ``key_share`` is ours.
    """

    num_cuts: int = 4
    num_key_events: int = 3
    key_share: float = 0.75

    needs: ClassVar[frozenset[str]] = frozenset({"mean_features", "relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_cuts", self.num_cuts, least=0)
        check_count("num_key_events", self.num_key_events, least=0)
        check_number("key_share", self.key_share, 0, 1)

    def events(self, mean_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of the events."""
        unit = unit_rows(mean_features)
        similarity = (unit[:-1] * unit[1:]).sum(1)
        weakest = np.sort(np.argsort(similarity, kind="stable")[: self.num_cuts])
        return list(pairwise([0, *(int(step) + 1 for step in weakest), len(unit)]))

    def choose(self, previews: Previews) -> list[int]:
        """Frames of key events by relevance, of the others evenly, in time order."""
        relevance = np.asarray(previews.need("relevance", "metok"))
        events = self.events(previews.need("mean_features", "metok"))
        best = [-float(relevance[start:stop].max()) for start, stop in events]
        first = set(np.argsort(best, kind="stable")[: self.num_key_events].tolist())
        key = [event for number, event in enumerate(events) if number in first]
        others = [event for number, event in enumerate(events) if number not in first]
        lengths = [stop - start for start, stop in key]
        room = min(self.num_frames, len(relevance))
        # what the others have no frames for goes to key events as well
        for_key = max(share_of(room, self.key_share, rounding="ceil"), room - len(relevance) + sum(lengths))
        chosen: list[int] = []
        for (start, stop), count in zip(key, split_evenly(for_key, lengths), strict=True):
            ranked = np.argsort(-relevance[start:stop], kind="stable")[:count]
            chosen += [start + int(frame) for frame in ranked]
        return sorted([*chosen, *spread_over(others, room - len(chosen))])
