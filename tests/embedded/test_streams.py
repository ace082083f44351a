"""Endless streams: any frame at any time, rare objects that stay unique, questions with their evidence."""

from __future__ import annotations

import numpy as np
import pytest

from streamprune.embedded import world
from streamprune.embedded.train.packing import encode
from streamprune.embedded.train.tokenizer import UNKNOWN
from streamprune.embedded.world.streams import CHAPTER_FRAMES
from streamprune.errors import InvalidTypeError, InvalidValueError


def test_random_access_equals_reading_in_order() -> None:
    in_order = world.stream(9).frames(0, 80)
    fresh = world.stream(9)
    for number in (79, 3, 64, 31, 32, 0):
        assert np.array_equal(fresh.frame(number), in_order[number]), number


def test_far_frames_cost_no_more_than_near_ones() -> None:
    stream = world.stream(1)
    far = stream.frame(10**9)
    assert far.shape == (96, 96, 3)
    assert np.array_equal(far, world.stream(1).frame(10**9))
    assert stream.pts_seconds(90) == 90.0


def test_streams_differ_by_seed_and_split() -> None:
    frames = [world.stream(s, split).frame(40).tobytes() for s in (0, 1) for split in ("train", "eval")]
    assert len(set(frames)) == 4


def test_rare_objects_come_once_per_era() -> None:
    stream = world.stream(4, era_frames=640)
    for era in range(3):
        rare = [e for e in stream.events(640 * era, 640 * (era + 1)) if e.role != "main"]
        assert len(rare) == len({e.kind for e in rare}) >= 12
        assert all(e.stop - e.start <= 2 for e in rare)


def test_without_repeat_rare_objects_stay_in_the_first_era() -> None:
    stream = world.stream(4, era_frames=640, repeat=False)
    assert not [e for e in stream.events(640, 6400) if e.role != "main"]
    assert len(stream.questions(6400)) > 20


def test_events_do_not_depend_on_how_they_are_asked_for() -> None:
    stream = world.stream(6)
    whole = stream.events(0, 200)
    pieces = {e for start in range(0, 200, 7) for e in stream.events(start, start + 7)}
    assert pieces >= set(whole)
    assert {e for e in pieces if e.start < 200} == set(whole)


@pytest.mark.parametrize("at_frame", [40, 500, 1800])
def test_answers_are_the_only_ones_in_the_past(at_frame: int) -> None:
    stream = world.stream(12)
    events = stream.events(0, at_frame)
    questions = stream.questions(at_frame)
    assert questions
    for question in questions:
        assert UNKNOWN not in encode(question.text) + encode(question.answer)
        assert all(0 <= start < stop <= at_frame + CHAPTER_FRAMES for start, stop in question.evidence)
        if question.type in ("color_needle", "digit_color", "color_main"):
            answers = {e.color for e in events if f"the {e.name}" in question.text.removesuffix("?")}
            assert answers == {question.answer}
        if question.group == "needle":
            assert all(stop <= at_frame for _, stop in question.evidence)


def test_ages_split_the_past() -> None:
    stream = world.stream(12)
    every = stream.questions(1800)
    by_age = {age: stream.questions(1800, ages=[age]) for age in ("now", "recent", "past")}
    assert sum(len(found) for found in by_age.values()) == len(every)
    assert {q.type for q in by_age["now"]} & {"color_main", "shape_main"}
    assert all(min(stop for _, stop in q.evidence) <= 1800 - 64 for q in by_age["past"])


def test_a_window_hides_what_came_before() -> None:
    stream = world.stream(12)
    assert all(
        start >= 1000
        for q in stream.questions(1800, since=1000)
        if q.group == "needle"
        for start, _ in q.evidence
    )
    repeated = stream.questions(3600)
    assert len([q for q in repeated if q.type == "color_needle"]) == 0
    assert [q for q in stream.questions(3600, since=1792) if q.type == "color_needle"]


def test_evidence_is_covered_by_tokens() -> None:
    stream = world.stream(12)
    for question in stream.questions(1800)[:30]:
        for start, stop in question.evidence:
            assert all(stream.coverage(question, n).max() > 0.05 for n in range(start, min(stop, 1800)))
            assert stream.coverage(question, stop + 2 * CHAPTER_FRAMES).max() == 0


def test_a_fixed_camera_changes_only_where_objects_are() -> None:
    stream = world.stream(2, static=True)
    first, later = stream.frame(0).astype(int), stream.frame(CHAPTER_FRAMES * 5).astype(int)
    changed = (abs(first - later).max(-1) > 25).reshape(6, 16, 6, 16).mean((1, 3)) > 0.05
    assert changed.sum() < 18


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ({"seed": -1}, InvalidValueError, "seed"),
        ({"seed": 0, "fps": 0.0}, InvalidValueError, "fps"),
        ({"seed": 0, "era_frames": 10}, InvalidValueError, "era_frames"),
        ({"seed": "0"}, InvalidTypeError, "seed"),
        ({"seed": 0, "split": "dev"}, InvalidValueError, "split"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=name):
        world.stream(**arguments)  # type: ignore[arg-type]


def test_a_frame_before_the_first_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="number"):
        world.stream(0).frame(-1)
