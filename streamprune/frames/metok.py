"""MeTok's events: cut where the picture changes most, look hardest at the events the question is about."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from streamprune.checks import check_count, check_number
from streamprune.frames.content import Floats, Previews, RelevanceMethod, spread_over, unit_rows


@dataclass(frozen=True, kw_only=True)
class MeTokFrames(RelevanceMethod):
    """Cut the candidates into events and give the key events most of the frames.

    Needs ``frame_features`` and ``relevance``. The ``num_cuts`` weakest transitions are cut; the
    ``key_events`` events with the most relevant frame are key. ``key_share`` of the frames go to them, their
    most relevant frames first; the rest is spread over the other events.

    Args:
        num_cuts: cuts, 0 or more (fewer candidates: a cut between all of them).
        key_events: 1 or more.
        key_share: in [0, 1].

    Source: arXiv 2506.02850, section 3.2. The paper keeps every frame and pools those of other events more;
    here, before the tower, they are looked at less often.
    """

    num_cuts: int = 4
    key_events: int = 3
    key_share: float = 0.75

    needs: ClassVar[frozenset[str]] = frozenset({"frame_features", "relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("key_events", self.key_events)
        if self.num_cuts != 0:
            check_count("num_cuts", self.num_cuts)
        check_number("key_share", self.key_share, 0, 1)

    def events(self, frame_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of the events."""
        unit = unit_rows(frame_features)
        similarity = (unit[:-1] * unit[1:]).sum(1)
        weakest = np.sort(np.argsort(similarity, kind="stable")[: self.num_cuts])
        return list(pairwise([0, *(int(step) + 1 for step in weakest), len(unit)]))

    def choose(self, previews: Previews) -> list[int]:
        """Frames of key events by relevance, of the others evenly, in time order."""
        relevance = np.asarray(previews.need("relevance", "metok"))
        events = self.events(previews.need("frame_features", "metok"))
        best = [float(relevance[start:stop].max()) for start, stop in events]
        key = set(np.argsort(np.negative(best), kind="stable")[: self.key_events].tolist())
        in_key = [frame for number in sorted(key) for frame in range(*events[number])]
        others = [event for number, event in enumerate(events) if number not in key]
        room = min(self.num_frames, len(relevance))
        for_key = min(len(in_key), round(self.key_share * room) if others else room)
        for_key = max(for_key, room - sum(stop - start for start, stop in others))
        ranked = sorted(in_key, key=lambda frame: (-relevance[frame], frame))
        return sorted([*ranked[:for_key], *spread_over(others, room - for_key)])
