"""Every backend gives the same frames; what a backend gets wrong it refuses to do."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from streamprune.errors import MissingDependencyError, SourceFormatError, SourceTimeoutError
from streamprune.readers import Source, open_source

if TYPE_CHECKING:
    from tests.readers.media import Media

WANTED = [0.0, 0.5, 0.51, 1.37, 2.2, 2.9]


def open_with(backend: str, path: Path) -> Source:
    """Open a file, or skip the test with the install line where the backend cannot be imported."""
    try:
        if backend == "torchcodec":
            import_module("torchcodec.decoders")
        return open_source(path, backend=backend)
    except (MissingDependencyError, ImportError, RuntimeError) as error:
        pytest.skip(
            f"{backend} cannot be loaded: pip install 'streamprune[{backend}]' ({type(error).__name__})"
        )


@pytest.mark.parametrize("backend", ["opencv", "decord", "torchcodec"])
@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "vp9.webm", "mpeg4.avi", "vfr.mkv", "rotated.mp4"])
def test_backends_agree_with_pyav(backend: str, name: str, media: Media) -> None:
    if (backend, name) == ("decord", "hevc.mp4"):
        name = "h264.mkv"  # decord is refused HEVC, see below
    with open_source(media(name)) as ours, open_with(backend, media(name)) as other:
        assert other.info.backend == backend
        assert (other.info.rows, other.info.cols) == (ours.info.rows, ours.info.cols)
        for mine, theirs in (
            (ours.sample(WANTED, keep_repeats=True), other.sample(WANTED, keep_repeats=True)),
            (list(ours.read(0.9, 1.3)), list(other.read(0.9, 1.3))),
        ):
            assert [f.pts_seconds for f in mine] == pytest.approx([f.pts_seconds for f in theirs], abs=1e-4)
            assert [f.index for f in mine] == [f.index for f in theirs]
            for a, b in zip(mine, theirs, strict=True):
                assert np.abs(a.image.astype(int) - b.image).max() <= 4
        assert other.keyframes() == ours.keyframes()


def test_opencv_is_right_about_edit_lists_and_transport_streams(media: Media) -> None:
    for name in ("edit_list.mp4", "h264.ts", "late.ts"):
        with open_source(media(name)) as ours, open_source(media(name), backend="opencv") as other:
            mine, theirs = ours.sample(WANTED), other.sample(WANTED)
            assert all((a.image == b.image).all() for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(
    ("backend", "name", "words"),
    [
        ("opencv", "av1.mp4", "reads no frame of this av1 file"),
        ("decord", "av1.mp4", "decord cannot read it"),
        ("decord", "h264.ts", "wrong frames of files without an index"),
        ("decord", "hevc.mp4", "wrong frames of HEVC"),
        ("decord", "edit_list.mp4", "decord counts 100 frames where the file shows 85"),
        ("decord", "raw.h264", "index"),
        ("opencv", "raw.h264", "no time stamps"),
    ],
)
def test_what_a_backend_gets_wrong_is_refused(backend: str, name: str, words: str, media: Media) -> None:
    with (
        pytest.raises(SourceFormatError, match=words) as caught,
        open_source(media(name), backend=backend) as source,
    ):
        source.sample([0.5])
    assert 'backend="pyav"' in str(caught.value)


def children() -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found


def test_decord_runs_in_a_child_that_ends_with_its_reader(media: Media) -> None:
    before = set(children())
    with open_source(media("h264.mp4"), backend="decord", prefetch_bytes=1) as source:
        frames = iter(source)
        next(frames)
        assert len(set(children()) - before) == 1
        assert "decord" not in sys.modules
    assert set(children()) == before


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", "while True: pass"])
def test_a_stuck_decord_is_stopped_after_the_deadline(
    program: str, media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(children())
    monkeypatch.setattr("streamprune.readers.decord_process.COMMAND", (sys.executable, "-c", program))
    with pytest.raises(SourceTimeoutError, match=r"no answer in 0\.2 s.*pyav"):
        open_source(media("h264.mp4"), backend="decord", timeout_seconds=0.2)
    assert set(children()) == before


def test_a_crashed_decord_is_told(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    program = 'import os; os.write(1, b\'{"num_frames": 100, "num_bytes": 0}\\n\'); os.read(0, 1); os.abort()'
    monkeypatch.setattr("streamprune.readers.decord_process.COMMAND", (sys.executable, "-c", program))
    with (
        open_source(media("h264.mp4"), backend="decord") as source,
        pytest.raises(SourceFormatError, match="crash"),
    ):
        source.sample([1.0])


def test_decord_without_decord_is_answered_with_the_install_command(
    media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = '{"error": "No module named decord", "missing": true, "num_bytes": 0}'
    monkeypatch.setattr(
        "streamprune.readers.decord_process.COMMAND", (sys.executable, "-c", f"print('{answer}')")
    )
    with pytest.raises(MissingDependencyError, match=r"pip install 'streamprune\[decord\]'"):
        open_source(media("h264.mp4"), backend="decord")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("backend", ["opencv", "decord"])
def test_names_that_are_not_utf8_are_refused_by_name(backend: str, media: Media, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.mp4")
    shutil.copy(media("one_frame.mp4"), path)
    with open_source(path) as source:
        assert len(source.sample([0.0])) == 1
    with pytest.raises(SourceFormatError, match='use backend="pyav"'):
        open_with(backend, path).sample([0.0])
