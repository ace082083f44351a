"""Each way of choosing times, on videos of known, unknown and no length."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError, UnknownNameError
from streamprune.frames import Fps, FrameMethod, Keyframes, Timestamps, Uniform
from streamprune.readers import VideoInfo, open_source

TEN = VideoInfo(source="ten", rows=4, cols=4, fps=Fraction(10), duration_seconds=10.0)
ENDLESS = VideoInfo(source="endless", rows=4, cols=4, fps=Fraction(10))
ONE = VideoInfo(source="one", rows=4, cols=4, duration_seconds=0.0)
KEYS = [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Uniform(num_frames=4), [1.25, 3.75, 6.25, 8.75]),
        (Uniform(num_frames=1), [5.0]),
        (Uniform(num_frames=2, start_seconds=4.0, end_seconds=6.0), [4.5, 5.5]),
        (Uniform(num_frames=2, end_seconds=99.0), [2.5, 7.5]),
        (Uniform(num_frames=3, placement="ends"), [0.0, 4.95, 9.9]),
        (Uniform(num_frames=1, placement="ends"), [5.0]),
        (Fps(fps=0.5), [0.0, 2.0, 4.0, 6.0, 8.0]),
        (Fps(fps=Fraction(1, 3)), [0.0, 3.0, 6.0, 9.0]),
        (Fps(fps=1, start_seconds=7.5), [7.5, 8.5, 9.5]),
        (Fps(fps=1, start_seconds=7, end_seconds=9), [7.0, 8.0]),
        (Fps(fps=10, max_frames=4), [0.0, 2.5, 5.0, 7.5]),
        (Fps(fps=0.01), [0.0]),
        (Keyframes(), KEYS),
        (Keyframes(max_frames=2), [2.0, 6.0]),
        (Keyframes(max_frames=9), KEYS),
        (Keyframes(start_seconds=2.0, end_seconds=6.0), [2.0, 4.0]),
        (Keyframes(start_seconds=8.5), [8.5]),
        (Timestamps(times_seconds=[7, 1.5, 3]), [1.5, 3.0, 7.0]),
        (Timestamps(times_seconds=[7, 1.5, 3], start_seconds=2, end_seconds=7), [3.0]),
    ],
)
def test_times(method: FrameMethod, expected: list[float]) -> None:
    assert method.times(TEN, KEYS) == pytest.approx(expected)


def test_an_endless_source_can_be_looked_at_but_not_divided() -> None:
    assert Fps(fps=2, max_frames=3).times(ENDLESS) == [0.0, 0.5, 1.0]
    assert Fps(fps=2, end_seconds=1.5).times(ENDLESS) == [0.0, 0.5, 1.0]
    assert Uniform(num_frames=2, end_seconds=4.0).times(ENDLESS) == [1.0, 3.0]
    with pytest.raises(InvalidValueError, match="fps and max_frames"):
        Uniform(num_frames=2).times(ENDLESS)
    with pytest.raises(InvalidValueError, match="give max_frames"):
        Fps(fps=2).times(ENDLESS)


@pytest.mark.parametrize(
    "method", [Uniform(num_frames=5), Fps(fps=3), Keyframes(), Uniform(num_frames=2, placement="ends")]
)
def test_a_single_moment_is_looked_at(method: FrameMethod) -> None:
    assert set(method.times(ONE, [])) == {0.0}


@pytest.mark.parametrize(
    ("make", "options", "error", "words"),
    [
        (Uniform, {"num_frames": 0}, InvalidValueError, "num_frames"),
        (Uniform, {"num_frames": 2.5}, InvalidTypeError, "num_frames"),
        (Uniform, {"num_frames": True}, InvalidTypeError, "num_frames"),
        (Uniform, {"num_frames": 2, "placement": "center"}, UnknownNameError, "placement"),
        (
            Uniform,
            {"num_frames": 2, "start_seconds": 5, "end_seconds": 4},
            InvalidValueError,
            "after start_seconds",
        ),
        (Uniform, {"num_frames": 2, "start_seconds": -1}, InvalidValueError, "start_seconds"),
        (Uniform, {"num_frames": 2, "end_seconds": float("nan")}, InvalidValueError, "end_seconds"),
        (Fps, {"fps": 0}, InvalidValueError, "fps"),
        (Fps, {"fps": -1}, InvalidValueError, "fps"),
        (Fps, {"fps": float("nan")}, InvalidValueError, "fps"),
        (Fps, {"fps": "2"}, InvalidTypeError, "fps"),
        (Fps, {"fps": 2, "max_frames": 0}, InvalidValueError, "max_frames"),
        (Keyframes, {"max_frames": -3}, InvalidValueError, "max_frames"),
        (Timestamps, {"times_seconds": []}, InvalidValueError, "at least one"),
        (Timestamps, {"times_seconds": [1.0, -2.0]}, InvalidValueError, "times_seconds"),
        (Timestamps, {"times_seconds": [float("nan")]}, InvalidValueError, "times_seconds"),
        (Timestamps, {"times_seconds": "12"}, InvalidTypeError, "times_seconds"),
    ],
)
def test_options_are_checked(
    make: type[FrameMethod], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make(**options)


def test_numpy_numbers_are_numbers() -> None:
    five: Any = np.int64(5)
    times: Any = np.array([1.0, 2.0])
    assert Uniform(num_frames=five).times(TEN) == Uniform(num_frames=5).times(TEN)
    assert Timestamps(times_seconds=times) == Timestamps(times_seconds=[1.0, 2.0])


def test_what_does_not_fit_the_video_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"start_seconds=10 is after the end of ten \(10\.00 s\)"):
        Uniform(num_frames=2, start_seconds=10.0).times(TEN)
    with pytest.raises(InvalidValueError, match="has 11, after the end of ten"):
        Timestamps(times_seconds=[1.0, 11.0]).times(TEN)
    with pytest.raises(InvalidValueError, match="none of times_seconds"):
        Timestamps(times_seconds=[1.0], start_seconds=5.0).times(TEN)
    with pytest.raises(SignalError, match=r"source\.keyframes\(\)"):
        Keyframes().times(TEN)


def test_methods_are_values() -> None:
    assert Uniform(num_frames=4) == Uniform(num_frames=4)
    assert hash(Timestamps(times_seconds=[1.0])) == hash(Timestamps(times_seconds=(1.0,)))
    with pytest.raises(FrozenInstanceError):
        Uniform(num_frames=4).num_frames = 5  # type: ignore[misc]
    assert Keyframes.needs == {"keyframes"}
    assert Fps.causal
    assert not Uniform.causal


@pytest.mark.parametrize("num_frames", [1, 3, 7, 40, 41, 100])
def test_uniform_frames_of_an_array_are_distinct_and_complete(num_frames: int) -> None:
    video = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    with open_source(video, fps=30) as source:
        numbers = [
            int(frame.image[0, 0, 0])
            for frame in source.sample(Uniform(num_frames=num_frames).times(source.info))
        ]
    assert len(numbers) == min(num_frames, 40)
    assert numbers == sorted(set(numbers))


def test_every_frame_at_the_videos_own_rate() -> None:
    video = np.zeros((90, 2, 2, 3), np.uint8)
    with open_source(video, fps=Fraction(30000, 1001)) as source:
        assert len(source.sample(Fps(fps=Fraction(30000, 1001)).times(source.info))) == 90
        assert len(source.sample(Fps(fps=1000).times(source.info))) == 90
