"""Arrays, tensors, lists and iterators of frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from streamprune.errors import InvalidTypeError, InvalidValueError, SourceError, SourceFormatError
from streamprune.readers import Frame, open_source

VIDEO = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(6, 2).repeat(3, 3)


def values(frames: Any) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in frames]


def endless() -> Iterator[np.ndarray[Any, Any]]:
    number = 0
    while True:
        yield np.full((4, 6, 3), number % 256, np.uint8)
        number += 1


def test_an_array_has_times_at_its_rate() -> None:
    with open_source(VIDEO, fps=2) as source:
        assert (source.info.rows, source.info.cols, source.info.num_frames) == (4, 6, 5)
        assert source.info.duration_seconds == 2.5
        assert [frame.pts_seconds for frame in source] == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert values(source.sample([0.0, 0.4, 0.5, 99.0])) == [0, 1, 4]
        assert values(source.sample([0.5, 0.0, 0.4], keep_repeats=True)) == [1, 0, 0]
        assert values(source.read(0.5, 1.5)) == [1, 2]
        assert source.report.times_past_end == 1
        assert source.report.repeated_times == 2


def test_a_tensor_and_a_list_read_like_an_array() -> None:
    import torch

    for given in (torch.from_numpy(VIDEO), list(VIDEO), [torch.from_numpy(image) for image in VIDEO]):
        with open_source(given) as source:
            assert values(source) == [0, 1, 2, 3, 4]


def test_one_picture_is_a_video_of_one_frame() -> None:
    with open_source(VIDEO[3]) as source:
        assert values(source.sample([0.0, 5.0])) == [3]


def test_given_frames_keep_their_times() -> None:
    frames = [Frame(image, pts, 0) for image, pts in zip(VIDEO, [0.0, 0.1, 5.0, 5.5, 6.0], strict=True)]
    with open_source(frames) as source:
        assert values(source.sample([4.9, 5.2])) == [1, 2]
        assert [frame.index for frame in source] == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidValueError, match="time order"):
        open_source(frames[::-1])
    with pytest.raises(InvalidValueError, match="their own times"):
        open_source(frames, fps=3)


def test_resize_gives_every_frame_one_size() -> None:
    mixed = [np.full((4, 6, 3), 9, np.uint8), np.full((40, 20, 3), 9, np.uint8)]
    with open_source(mixed, resize=(8, 10)) as source:
        assert [frame.image.shape for frame in source] == [(8, 10, 3)] * 2
        assert values(source) == [9, 9]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (VIDEO.astype(np.float32) / 255, InvalidTypeError, "multiply by 255"),
        (VIDEO[..., 0], InvalidValueError, "grey"),
        (VIDEO.transpose(0, 3, 1, 2), InvalidValueError, "permute"),
        (VIDEO[:0], SourceFormatError, "no frames"),
        ([], SourceFormatError, "empty list"),
        ([VIDEO[0], VIDEO[1][:2]], InvalidValueError, r"frame 1 .*resize"),
        ([VIDEO[0], Frame(VIDEO[0], 0.0, 0)], InvalidTypeError, "mixes"),
        (iter([]), SourceFormatError, "without a single frame"),
        (b"bytes", InvalidTypeError, "bytes"),
        (3.5, InvalidTypeError, "float"),
        (-1, InvalidValueError, "camera"),
        (None, InvalidTypeError, "NoneType"),
    ],
)
def test_what_is_no_video_is_refused(given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        open_source(given)


def test_an_endless_iterator_is_read_only_as_far_as_asked() -> None:
    with open_source(endless(), fps=10) as source:
        assert source.info.duration_seconds is None
        assert values(source.sample([0.0, 0.45, 1.0])) == [0, 4, 10]
        following = iter(source.read(1.5, 1.8))
        assert values(following) == [15, 16, 17]
        with pytest.raises(SourceError, match="read once"):
            source.sample([0.2])


def test_an_iterator_ends_where_it_ends() -> None:
    with open_source(iter(VIDEO)) as source:
        assert values(source.sample([3.0, 7.0, 9.0])) == [3, 4]
        assert source.report.times_past_end == 2
    with open_source(Frame(image, 2.0 * i, 0) for i, image in enumerate(VIDEO)) as source:
        assert [frame.pts_seconds for frame in source] == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert source.info.fps is None


def test_an_iterator_with_a_bad_frame_names_it() -> None:
    with (
        open_source(iter([VIDEO[0], VIDEO[1][:2]])) as source,
        pytest.raises(InvalidValueError, match=r"frame 1 is \(2, 6\)"),
    ):
        list(source)


@pytest.mark.parametrize("times", [[], [-1.0], [float("nan")], [float("inf")], ["1"], "12", 3.0, [True]])
def test_times_are_checked(times: Any) -> None:
    with (
        open_source(VIDEO) as source,
        pytest.raises((InvalidValueError, InvalidTypeError), match="times_seconds"),
    ):
        source.sample(times)


def test_a_closed_source_says_so() -> None:
    with open_source(VIDEO) as source:
        pass
    assert source.closed
    source.close()
    for use in (lambda: source.sample([0.0]), lambda: list(source), source.keyframes, source.__enter__):
        with pytest.raises(SourceError, match="closed"):
            use()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pillow_images_are_pictures(mode: str) -> None:
    image = Image.new("RGB", (6, 4), (51, 51, 51)).convert(mode)
    for given in (image, [image, image], iter([image])):
        with open_source(given) as source:
            assert (source.info.rows, source.info.cols) == (4, 6)
            assert values(source) == [51] * (2 if isinstance(given, list) else 1)
