"""Budgets shared out by relevance: sums, proportions, caps, and what is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamprune.errors import InvalidValueError, UsageError
from streamprune.frames.quota import Quota
from streamprune.readers import VideoInfo
from tests.frames.random_previews import previews


def parts(relevance: list[float], **options: Any) -> list[int]:
    found: list[int] = Quota(**options).parts(np.array(relevance)).tolist()
    return found


def test_the_square_decides() -> None:
    assert parts([1.0, 0.5], total_tokens=1000) == [800, 200]
    assert parts([1.0, 0.5], total_tokens=900, power=1) == [600, 300]
    assert parts([1.0, 0.5], total_tokens=900, power=0) == [450, 450]


def test_equal_frames_get_equal_parts_rounded_down() -> None:
    assert parts([0.3] * 10) == [1254] * 10
    assert parts([0.7] * 64) == [196] * 64
    assert parts([0.0] * 3, total_tokens=10) == [3, 3, 3]


def test_parts_are_the_released_formula() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        chances = rng.random(int(rng.integers(1, 160)))
        weights = (100 * chances) ** 2 / ((100 * chances) ** 2).sum()
        found = np.array(parts(chances.tolist()))
        np.testing.assert_array_equal(found, np.floor(12544 * weights + 1e-9))
        assert found.sum() <= 12544


def test_a_cap_passes_on_what_is_over_and_loses_nothing() -> None:
    assert parts([1.0, 0.5], total_tokens=1000, tokens_per_frame=729) == [729, 271]
    assert parts([1.0, 0.9, 0.1], total_tokens=9999, tokens_per_frame=729) == [729] * 3
    rng = np.random.default_rng(2)
    for _ in range(20):
        found = parts(rng.random(20).tolist(), total_tokens=5000, tokens_per_frame=400)
        assert max(found) <= 400
        assert sum(found) == 5000


def test_tiny_chances_do_not_vanish() -> None:
    assert parts([1e-200, 5e-201], total_tokens=1000) == [800, 200]


def test_frames_without_a_token_are_not_looked_at() -> None:
    relevance = np.array([0.9, 0.001, 0.8, 0.0, 0.7])
    assert Quota().choose(previews(relevance=relevance)) == [0, 2, 4]
    assert Quota(num_frames=2).choose(previews(relevance=relevance)) == [0, 2]
    # equal parts: the earlier frame
    assert Quota(num_frames=1).choose(previews(relevance=np.array([0.1, 0.9, 0.9]))) == [1]
    assert Quota(total_tokens=1).choose(previews(relevance=np.array([0.2, 0.9]))) != []


def test_nothing_to_go_by_means_evenly_spread() -> None:
    for relevance in (np.zeros(12), np.full(12, 0.4)):
        assert Quota(num_frames=3).choose(previews(relevance=relevance)) == [2, 6, 10]
        assert Quota(num_frames=3, total_tokens=5).choose(previews(relevance=relevance)) == [2, 6, 10]


@pytest.mark.parametrize(
    ("hours", "candidates"), [(0.001, 96), (0.5, 128), (1.0, 160), (1.02, 161), (9, 256)]
)
def test_candidates_as_released(hours: float, candidates: int) -> None:
    info = VideoInfo(source="long", rows=4, cols=4, duration_seconds=3600 * hours)
    times = Quota().preview_times(info)
    assert len(times) == candidates
    assert np.allclose(np.diff(times), 3600 * hours / candidates)
    assert len(Quota(preview_fps=0.5).preview_times(info)) == min(256, int(np.ceil(1800 * hours)))


def test_candidates_of_a_window() -> None:
    info = VideoInfo(source="long", rows=4, cols=4, duration_seconds=7200.0)
    times = Quota(start_seconds=1800, end_seconds=3600).preview_times(info)
    assert len(times) == 128
    assert 1800 < times[0] < times[-1] < 3600


def test_a_chance_is_not_negative() -> None:
    with pytest.raises(InvalidValueError, match=r"relevance must be 0 or more for quota, got -0\.5"):
        Quota().choose(previews(relevance=np.array([0.2, -0.5])))


@pytest.mark.parametrize(
    ("option", "value"),
    [("total_tokens", 0), ("tokens_per_frame", 0), ("tokens_per_frame", 1.5), ("power", -1), ("power", 99)],
)
def test_options_have_ranges(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        Quota(**{option: value})
