"""The nouns refuse nonsense and say what to do about it."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.readers import Frame, VideoInfo
from streamprune.readers.base import check_fps, check_window

IMAGE = np.zeros((4, 6, 3), np.uint8)


def test_a_frame_knows_its_size_and_keeps_pixels_out_of_its_repr() -> None:
    frame = Frame(IMAGE, 1.25, 3, key=True, source="a.mp4")
    assert (frame.rows, frame.cols, frame.num_bytes) == (4, 6, 72)
    assert repr(frame) == "Frame(4x6, pts_seconds=1.25, index=3, key, source='a.mp4')"


def test_a_frame_takes_a_torch_tensor() -> None:
    import torch

    frame = Frame(torch.ones(4, 6, 3, dtype=torch.uint8), 0.0, 0)  # type: ignore[arg-type]
    assert isinstance(frame.image, np.ndarray)
    assert frame.image.sum() == 72


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((4, 6, 3), np.float32), InvalidTypeError, "multiply by 255"),
        (np.zeros((4, 6, 3), np.int64), InvalidTypeError, "uint8"),
        (np.zeros((4, 6), np.uint8), InvalidValueError, "grey"),
        (np.zeros((3, 4, 6), np.uint8), InvalidValueError, "permute"),
        (np.zeros((4, 6, 4), np.uint8), InvalidValueError, "alpha"),
        (np.zeros((0, 6, 3), np.uint8), InvalidValueError, r"\(0, 6, 3\)"),
        ([[1, 2, 3]], InvalidTypeError, "NumPy array"),
    ],
)
def test_a_frame_refuses_what_is_no_rgb_picture(image: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Frame(image, 0.0, 0)


@pytest.mark.parametrize(("pts", "index"), [(float("nan"), 0), (float("inf"), 0), (0.0, -1)])
def test_a_frame_refuses_bad_numbers(pts: float, index: int) -> None:
    with pytest.raises(InvalidValueError):
        Frame(IMAGE, pts, index)


@pytest.mark.parametrize(
    "bad", [{"rows": 0}, {"fps": Fraction(0)}, {"duration_seconds": float("nan")}, {"num_frames": -1}]
)
def test_video_info_refuses_bad_numbers(bad: dict[str, Any]) -> None:
    given: dict[str, Any] = {"source": "x", "rows": 4, "cols": 4, **bad}
    with pytest.raises(InvalidValueError):
        VideoInfo(**given)


@pytest.mark.parametrize(
    ("start", "end", "error"),
    [
        (0.0, None, None),
        (1, 2.5, None),
        (2.0, 1.0, InvalidValueError),
        (1.0, 1.0, InvalidValueError),
        (-0.1, None, InvalidValueError),
        (0.0, float("nan"), InvalidValueError),
        ("0", None, InvalidTypeError),
        (True, None, InvalidTypeError),
    ],
)
def test_a_window_is_ordered_and_finite(start: Any, end: Any, error: type[Exception] | None) -> None:
    if error is None:
        check_window(start, end)
        return
    with pytest.raises(error, match="_seconds"):
        check_window(start, end)


def test_rates_stay_exact() -> None:
    assert check_fps("fps", Fraction(30000, 1001)) == Fraction(30000, 1001)
    assert check_fps("fps", 30000 / 1001) == Fraction(30000, 1001)
    assert check_fps("fps", 2) == 2


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf"), Fraction(-1, 2)])
def test_rates_are_positive_and_finite(fps: Any) -> None:
    with pytest.raises(InvalidValueError, match="fps must be"):
        check_fps("fps", fps)


def test_a_live_frame_knows_its_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert Frame(IMAGE, 0.0, 0, arrival_seconds=97.5).age_seconds == 2.5
    assert Frame(IMAGE, 0.0, 0).age_seconds is None
