"""What all methods share that decide by what is in the video, and every one of them on random candidates."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError, UsageError
from streamprune.frames.base import spread
from streamprune.frames.content import ContentMethod, Previews, RelevanceMethod, spread_over, unit_rows
from streamprune.frames.scene import Scene
from streamprune.frames.vilamp import ViLaMPFrames
from streamprune.readers import VideoInfo
from streamprune.registry import list_methods
from tests.frames.random_previews import FIELDS, equal_fields, previews, random_fields, zero_fields

CONTENT: dict[str, Any] = {
    row.name: row.load() for row in list_methods("frames") if issubclass(row.load(), ContentMethod)
}
HOUR = VideoInfo(source="hour", rows=4, cols=4, duration_seconds=3600.0)
TEN = VideoInfo(source="ten", rows=4, cols=4, duration_seconds=10.0)

every_method = pytest.mark.parametrize("name", CONTENT)


def needed(name: str, fields: dict[str, Any]) -> Previews:
    """Only what the method says it needs: what it reads beyond that is missing."""
    return previews(**{field: fields[field] for field in FIELDS if field in CONTENT[name].needs})


def test_the_table_covers_what_was_promised() -> None:
    published = {"fastvid", "holitom", "prunevid", "metok", "vilamp", "quota", "mobile_videogpt"}
    assert set(CONTENT) >= {"scene", *published}


@every_method
def test_positions_are_ascending_unique_and_few(name: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    for seed in range(25):
        frames, num_frames = int(rng.integers(1, 30)), int(rng.integers(1, 36))
        candidates = needed(name, random_fields(seed, frames))
        chosen = CONTENT[name](num_frames=num_frames).choose(candidates)
        assert chosen == sorted(set(chosen))
        assert 1 <= len(chosen) <= num_frames
        assert chosen[0] >= 0
        assert chosen[-1] < frames
        assert all(type(place) is int for place in chosen)
        # decided by the candidates alone
        assert CONTENT[name](num_frames=num_frames).choose(candidates) == chosen


@every_method
def test_all_of_few_candidates_are_looked_at(name: str) -> None:
    for frames in (1, 2, 7):
        candidates = needed(name, random_fields(frames, frames))
        assert CONTENT[name](num_frames=7).choose(candidates) == list(range(frames))


@every_method
@pytest.mark.parametrize("make", [equal_fields, zero_fields])
def test_candidates_that_are_all_alike(name: str, make: Any) -> None:
    for frames, num_frames in ((1, 3), (3, 3), (12, 5), (19, 8)):
        chosen = CONTENT[name](num_frames=num_frames).choose(needed(name, make(frames)))
        assert len(chosen) == min(frames, num_frames)
        assert chosen == sorted(set(chosen))


@every_method
def test_half_precision_decides_as_its_float32_copy(name: str) -> None:
    halves = {
        field: value if field == "images" else np.asarray(value, np.float16)
        for field, value in random_fields(3, 24).items()
    }
    wholes = {f: v if f == "images" else np.asarray(v, np.float32) for f, v in halves.items()}
    method = CONTENT[name](num_frames=9)
    assert method.choose(needed(name, halves)) == method.choose(needed(name, wholes))


@every_method
def test_nothing_given_is_changed(name: str) -> None:
    fields = random_fields(4, 20)
    before = {field: np.array(value) for field, value in fields.items()}
    CONTENT[name](num_frames=6).choose(needed(name, fields))
    for field, value in fields.items():
        np.testing.assert_array_equal(np.array(value), before[field])


@every_method
def test_what_is_missing_is_named(name: str) -> None:
    fields = random_fields(1, 6)
    for missing in CONTENT[name].needs:
        rest = previews(**{field: fields[field] for field in FIELDS if field != missing})
        with pytest.raises(SignalError, match=rf"{name} needs {missing}"):
            CONTENT[name]().choose(rest)


@every_method
def test_the_registry_says_what_is_read(name: str) -> None:
    row = next(row for row in list_methods("frames") if row.name == name)
    assert set(row.needs) == CONTENT[name].needs
    assert set(row.needs) <= set(FIELDS)
    assert issubclass(CONTENT[name], RelevanceMethod) == ("relevance" in row.needs)
    assert not row.causal


@every_method
def test_options_are_checked(name: str) -> None:
    for option, value in (
        ("num_frames", 0),
        ("num_frames", 2.5),
        ("num_frames", True),
        ("preview_fps", 0),
        ("preview_fps", float("nan")),
        ("preview_fps", "2"),
        ("max_previews", 0),
        ("start_seconds", -1),
    ):
        with pytest.raises(UsageError, match=option):
            CONTENT[name](**{option: value})
    five: Any = np.int64(5)
    assert CONTENT[name](num_frames=five) == CONTENT[name](num_frames=5)


@every_method
def test_methods_are_values_and_every_option_is_explained(name: str) -> None:
    method = CONTENT[name]()
    assert dataclasses.replace(method) == method
    assert hash(method) == hash(CONTENT[name]())
    told = "\n".join(cls.__doc__ or "" for cls in CONTENT[name].__mro__)
    for field in dataclasses.fields(method):
        assert f"{field.name}: " in told


@every_method
def test_times_cannot_be_told_without_looking(name: str) -> None:
    with pytest.raises(SignalError, match=r"preview_times.*choose"):
        CONTENT[name]().times(TEN)


def test_candidates_are_spread_over_the_window() -> None:
    assert Scene(preview_fps=Fraction(1, 2)).preview_times(TEN) == [0, 2, 4, 6, 8]
    assert Scene(preview_fps=1, start_seconds=7, end_seconds=9).preview_times(TEN) == [7, 8]
    many = Scene(max_previews=100).preview_times(HOUR)
    assert len(many) == 100
    assert np.allclose(np.diff(many), 36)
    assert Scene(preview_fps=None, max_previews=4).preview_times(TEN) == [1.25, 3.75, 6.25, 8.75]


@pytest.mark.parametrize("name", [name for name, cls in CONTENT.items() if issubclass(cls, RelevanceMethod)])
def test_a_scorer_is_something_to_call(name: str) -> None:
    scorer: Any = "clip"
    with pytest.raises(InvalidTypeError, match=r"scorer\(question, images\)"):
        CONTENT[name](scorer=scorer)
    assert CONTENT[name](scorer=max).scorer is max


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"times_seconds": []}, "at least one candidate"),
        ({"times_seconds": [0.0, 2.0, 1.0]}, "must ascend"),
        ({"times_seconds": [0.0, 1.0, 1.0]}, "must ascend"),
        ({"relevance": np.ones(2)}, r"relevance must have one entry per candidate \(3\), got 2"),
        ({"relevance": np.ones((3, 1))}, "relevance must have 1 axes"),
        ({"relevance": np.array([0.0, np.nan, 1.0])}, "relevance must be finite"),
        ({"frame_features": np.full((3, 2), np.inf)}, "frame_features must be finite"),
        ({"frame_features": np.zeros((3, 2, 2))}, "frame_features must have 2 axes"),
        ({"token_features": np.zeros((3, 2))}, "token_features must have 3 axes"),
        ({"images": [np.zeros((4, 4, 3), np.uint8)]}, "images must have one entry"),
        ({"images": [np.zeros((4, 4), np.uint8)] * 3}, r"images must have shape \(rows, cols, 3\)"),
        ({"images": [np.zeros((4, 4, 3))] * 3}, "images must be uint8"),
    ],
)
def test_candidates_that_make_no_sense(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidValueError if "uint8" not in words else InvalidTypeError, match=words):
        Previews(**{"times_seconds": [0.0, 1.0, 2.0], **fields})


def test_relevance_may_be_negative_as_a_cosine_is() -> None:
    fields = {"frame_features": np.eye(4), "relevance": np.array([-0.2, -0.9, -0.1, -0.5])}
    assert ViLaMPFrames(num_frames=2).choose(previews(**fields)) == [0, 2]


@pytest.mark.parametrize(
    ("segments", "num_frames", "expected"),
    [
        ([(0, 4), (4, 12)], 3, [2, 6, 10]),
        ([(0, 1), (1, 9), (9, 10)], 2, [0, 5]),
        ([(0, 2), (2, 3)], 9, [0, 1, 2]),
        ([(0, 10)], 1, [5]),
        ([], 4, []),
        ([(3, 5), (7, 9)], 3, [3, 4, 8]),
    ],
)
def test_every_range_gets_one_before_any_gets_more(
    segments: list[tuple[int, int]], num_frames: int, expected: list[int]
) -> None:
    assert spread_over(segments, num_frames) == expected


def test_ranges_are_shared_fairly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        edges = [0, *np.cumsum(rng.integers(1, 9, int(rng.integers(1, 8)))).tolist()]
        segments = list(pairwise(edges))
        num_frames = int(rng.integers(1, 30))
        chosen = spread_over(segments, num_frames)
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(num_frames, edges[-1])
        taken = [sum(start <= place < stop for place in chosen) for start, stop in segments]
        assert (min(taken) > 0) == (num_frames >= len(segments))
        if len(segments) == 1:
            assert chosen == spread(edges[-1], num_frames)


def test_rows_of_length_one() -> None:
    np.testing.assert_allclose(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
