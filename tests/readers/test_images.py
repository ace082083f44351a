"""Folders of images."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamprune.errors import SourceFormatError, SourcePermissionError
from streamprune.readers import open_source
from streamprune.readers.images import natural_key
from tests.readers.media import number_of, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve numbered PNG files, whose names sort wrongly as plain text, and a file that is no image."""
    for number in range(12):
        Image.fromarray(picture(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_names_sort_as_people_count() -> None:
    names = ["b1", "a10", "A2", "a1"]
    assert sorted(names, key=natural_key) == ["a1", "A2", "a10", "b1"]


def test_a_folder_is_a_video(folder: Path) -> None:
    with open_source(folder, fps=4) as source:
        assert source.info.num_frames == 12
        assert source.info.duration_seconds == 3.0
        assert [number_of(frame.image) for frame in source] == list(range(12))
        assert [number_of(f.image) for f in source.sample([0.0, 0.3, 0.3, 2.75, 9.0])] == [
            0,
            1,
            11,
        ]
        assert [frame.pts_seconds for frame in source.read(1.0, 1.6)] == [1.0, 1.25, 1.5]
        assert len(source.keyframes()) == 12


def test_grey_and_turned_pictures_become_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((8, 16), 77, np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the orientation tag: turn by 90 degrees
    grey.save(tmp_path / "a.jpg", exif=exif)
    with open_source(tmp_path) as source:
        assert next(iter(source)).image.shape == (16, 8, 3)


def test_one_image_is_a_video_of_one_frame(folder: Path) -> None:
    with open_source(folder / "frame7.png") as source:
        assert [number_of(frame.image) for frame in source] == [7]
    (folder / "frame7.png").write_bytes(b"nothing")
    with pytest.raises(SourceFormatError, match=r"frame7\.png: not an image"):
        open_source(folder / "frame7.png")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(SourceFormatError, match="holds no images"):
        open_source(tmp_path)


def test_mixed_sizes_are_refused_or_scaled(folder: Path) -> None:
    Image.new("RGB", (20, 10)).save(folder / "frame5.png")
    with open_source(folder) as source, pytest.raises(SourceFormatError, match=r"frame5\.png.*resize"):
        list(source)
    with open_source(folder, resize=(10, 20)) as source:
        assert {frame.image.shape for frame in source} == {(10, 20, 3)}


def test_a_huge_picture_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    for path in (tmp_path, tmp_path / "huge.png"):
        with pytest.raises(SourceFormatError, match=r"huge\.png.*max_pixels"):
            open_source(path)
    Image.new("RGB", (200, 100)).save(tmp_path / "huge.png")
    with pytest.raises(SourceFormatError, match=r"100 x 200 pixels .*max_pixels=10,000"):
        open_source(tmp_path, max_pixels=10_000)


def test_a_broken_picture_is_skipped_and_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "frame5.png").write_bytes((folder / "frame5.png").read_bytes()[:200])
    with caplog.at_level(logging.WARNING, logger="streamprune.readers"), open_source(folder) as source:
        assert [number_of(frame.image) for frame in source] == [
            0,
            1,
            2,
            3,
            4,
            6,
            7,
            8,
            9,
            10,
            11,
        ]
        assert "could not be decoded" in caplog.text
        assert [number_of(frame.image) for frame in source.sample([4.0, 5.0, 6.0])] == [4, 6]
        assert source.report.approximate_times == 1
    with (
        open_source(folder, corrupt="raise") as source,
        pytest.raises(SourceFormatError, match=r"frame5\.png"),
    ):
        list(source)
    for file in folder.glob("*.png"):
        file.write_bytes(b"nothing")
    with pytest.raises(SourceFormatError, match="none of its 12 images"):
        open_source(folder)


def test_a_locked_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(SourcePermissionError, match="no permission"):
        open_source(folder)
