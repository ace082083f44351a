"""Events and what is looked at in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamprune.errors import UsageError
from streamprune.frames.metok import METokFrames
from tests.frames.random_previews import previews, random_fields


def along(*angles: float) -> Any:
    """Features at these angles in degrees."""
    turned = np.radians(angles)
    return np.stack([np.cos(turned), np.sin(turned)], 1)


def test_the_weakest_transitions_are_cut() -> None:
    steps = along(0, 1, 40, 41, 45, 80, 82, 130)
    assert METokFrames(num_cuts=3).events(steps) == [(0, 2), (2, 5), (5, 7), (7, 8)]
    assert METokFrames(num_cuts=1).events(steps) == [(0, 7), (7, 8)]
    assert METokFrames(num_cuts=0).events(steps) == [(0, 8)]
    # equal transitions: the earlier one
    assert METokFrames(num_cuts=1).events(np.eye(4)) == [(0, 1), (1, 4)]


def test_one_event_more_than_cuts_and_all_candidates_in_them() -> None:
    for seed in range(10):
        for frames in (1, 3, 5, 6, 40):
            events = METokFrames().events(random_fields(seed, frames)["mean_features"])
            assert len(events) == min(frames, 5)
            assert [place for start, stop in events for place in range(start, stop)] == list(range(frames))


def test_identical_candidates_are_cut_all_the_same() -> None:
    assert len(METokFrames().events(np.ones((9, 3)))) == 5
    assert len(METokFrames().events(np.zeros((9, 3)))) == 5


def test_key_events_get_most_of_the_frames() -> None:
    features = along(*[0] * 6, *[30] * 6, *[60] * 6)
    relevance = np.zeros(18)
    relevance[[7, 9, 10]] = 0.9, 0.8, 0.7
    method = METokFrames(num_cuts=2, num_key_events=1, num_frames=4)
    assert method.choose(previews(mean_features=features, relevance=relevance)) == [3, 7, 9, 10]


def test_each_key_event_gives_its_own_most_relevant_frames() -> None:
    features = along(*[0] * 6, *[30] * 6, *[60] * 6)
    relevance = np.concatenate([np.linspace(0.1, 0.2, 6), np.linspace(0.9, 0.8, 6), np.zeros(6)])
    method = METokFrames(num_cuts=2, num_key_events=2, num_frames=4, key_share=1)
    assert method.choose(previews(mean_features=features, relevance=relevance)) == [4, 5, 6, 7]


def test_what_an_event_has_no_frames_for_goes_to_the_others() -> None:
    features = along(0, *[30] * 9)
    relevance = np.zeros(10)
    relevance[0] = 1
    method = METokFrames(num_cuts=1, num_key_events=1, num_frames=4)
    # one key frame only: the others are spread
    assert method.choose(previews(mean_features=features, relevance=relevance)) == [0, 2, 5, 8]
    relevance = relevance[::-1].copy()
    short_rest = METokFrames(num_cuts=1, num_key_events=1, num_frames=9, key_share=0)
    # the others are full: the rest goes to the key event
    assert short_rest.choose(previews(mean_features=features, relevance=relevance)) == [0, *range(1, 8), 9]


@pytest.mark.parametrize("options", [{"num_key_events": 0}, {"num_key_events": 99}, {"key_share": 0}])
def test_no_key_events_or_only_such(options: dict[str, Any]) -> None:
    fields = random_fields(3, 20)
    candidates = previews(mean_features=fields["mean_features"], relevance=fields["relevance"])
    assert len(METokFrames(num_frames=7, **options).choose(candidates)) == 7


@pytest.mark.parametrize(
    ("option", "value"), [("num_cuts", -1), ("num_key_events", -1), ("num_cuts", 1.5), ("key_share", 1.5)]
)
def test_options_have_ranges(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        METokFrames(**{option: value})
