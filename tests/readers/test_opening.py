"""What cannot be opened is refused with one clear message that names it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    MissingDependencyError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    UnknownNameError,
)
from streamprune.readers import open_source
from tests.readers.media import RECIPES, Media, number_of, picture


def test_a_missing_file_is_named_with_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "talk.mkv").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=r"talk\.mp4.*did you mean 'talk\.mkv'"):
        open_source(tmp_path / "talk.mp4")
    with pytest.raises(SourceNotFoundError, match="does not exist either"):
        open_source(tmp_path / "nowhere" / "talk.mp4")
    with pytest.raises(SourceNotFoundError, match="not a path that can exist"):
        open_source("a" * 5000)


def test_a_path_may_hold_any_letters(media: Media, tmp_path: Path) -> None:
    for name in ("видеоклип два.mp4", "映像 %d [1].mp4", "concat:a|b.mp4", "-i.mp4"):
        path = tmp_path / name
        shutil.copy(media("h264.mp4"), path)
        for backend in ("pyav", "opencv", "decord"):
            with open_source(str(path), backend=backend) as source:
                assert len(source.sample([1.0])) == 1


def _empty(media: Media, folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


def _text(media: Media, folder: Path) -> Path:
    path = folder / "text.mp4"
    path.write_text("This is not a video.\n" * 100)
    return path


def _playlist(media: Media, folder: Path) -> Path:
    path = folder / "playlist.mp4"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_empty, "empty"),
        (_text, "not a readable video"),
        (_playlist, "not a readable video"),
        (lambda media, folder: media("audio_only.mp4"), "holds no video, only: audio"),
        (lambda media, folder: media("no_moov.mp4"), "not a readable video"),
    ],
)
@pytest.mark.parametrize("backend", ["pyav", "opencv", "decord"])
def test_what_is_no_video_is_refused(
    make: Callable[[Media, Path], Path], words: str, backend: str, media: Media, tmp_path: Path
) -> None:
    path = make(media, tmp_path)
    with pytest.raises(SourceFormatError, match=words) as caught:
        open_source(path, backend=backend)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_an_unreadable_file_is_named(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media("h264.mp4")

    def refuse(self: Path, *_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, whom no mode bits stop
    with pytest.raises(SourcePermissionError, match=r"h264\.mp4: no permission"):
        open_source(path)


def test_a_picture_beyond_the_cap_is_refused_before_decoding(media: Media) -> None:
    with pytest.raises(SourceFormatError, match=r"96 x 128 pixels .* max_pixels=1,000"):
        open_source(media("h264.mp4"), max_pixels=1000)


def test_a_file_carries_its_own_times(media: Media) -> None:
    with pytest.raises(InvalidValueError, match="fps cannot be given"):
        open_source(media("h264.mp4"), fps=10)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backend": "deocrd"}, UnknownNameError, "Did you mean 'decord'"),
        ({"corrupt": "ignore"}, UnknownNameError, "corrupt policy"),
        ({"resize": 224}, InvalidTypeError, "rows, cols"),
        ({"resize": (0, 10)}, InvalidValueError, "resize"),
        ({"resize": (20_000, 20_000)}, SourceFormatError, "max_pixels"),
        ({"max_pixels": 0}, InvalidValueError, "max_pixels"),
        ({"decode_threads": 0}, InvalidValueError, "decode_threads"),
        ({"decode_threads": 1.5}, InvalidTypeError, "decode_threads"),
        ({"prefetch_bytes": -1}, InvalidValueError, "prefetch_bytes"),
        ({"timeout_seconds": 0}, InvalidValueError, "timeout_seconds"),
        ({"fps": float("nan")}, InvalidValueError, "fps"),
        ({"fps": -2}, InvalidValueError, "fps"),
    ],
)
def test_options_are_checked(
    options: dict[str, Any], error: type[Exception], words: str, media: Media
) -> None:
    with pytest.raises(error, match=words):
        open_source(media("h264.mp4"), **options)


@pytest.mark.parametrize(("backend", "module"), [("opencv", "cv2"), ("torchcodec", "torchcodec")])
def test_a_missing_backend_is_answered_with_its_install_command(
    backend: str, module: str, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (module, f"{module}.decoders"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'streamprune\[{backend}\]'"):
        open_source(media("h264.mp4"), backend=backend)


def test_the_media_fixture_numbers_its_frames() -> None:
    """The other tests are only as good as this reading back."""
    assert [number_of(picture(n)) for n in range(256)] == list(range(256))
    assert number_of(picture(37, 64, 96)) == 37
    assert len(RECIPES) > 30
