"""Where things are kept on disk, and what is in a file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from streamprune.cache.cache_folder import default_cache_folder, features_folder
from streamprune.cache.content_hash import ContentHashes


def test_the_users_folder_and_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMPRUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder().name == "streamprune"
    monkeypatch.setenv("STREAMPRUNE_CACHE", str(tmp_path / "mine"))
    assert default_cache_folder() == tmp_path / "mine"
    assert features_folder() == tmp_path / "mine" / "features"
    assert features_folder(tmp_path / "other") == tmp_path / "other" / "features"


def old_file(path: Path, content: bytes, age_seconds: float = 60) -> Path:
    """A file that nobody has touched for a while."""
    path.write_bytes(content)
    then = time.time_ns() - int(age_seconds * 1e9)
    os.utime(path, ns=(then, then))
    return path


@pytest.fixture
def whole_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read from beginning to end."""
    import hashlib

    read: list[str] = []
    digest = hashlib.file_digest

    def counted(file: object, name: str) -> object:
        read.append(Path(file.name).name)  # type: ignore[attr-defined]
        return digest(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return read


def test_a_file_is_read_once_as_long_as_it_stays(tmp_path: Path, whole_reads: list[str]) -> None:
    video, copy = (old_file(tmp_path / name, b"frames" * 10_000) for name in ("a.mp4", "b.mp4"))
    first = ContentHashes(tmp_path / "store").of(video)
    assert ContentHashes(tmp_path / "store").of(video) == first
    assert whole_reads == ["a.mp4"]
    assert ContentHashes(tmp_path / "store").of(copy) == first, "the same bytes elsewhere"
    assert whole_reads == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("change", ["content", "one byte, same time", "size"])
def test_a_changed_file_is_another(tmp_path: Path, change: str) -> None:
    content = bytes(200_000)
    video, hashes = old_file(tmp_path / "a.mp4", content), ContentHashes(tmp_path / "store")
    first, times = hashes.of(video), video.stat()
    if change == "content":
        video.write_bytes(b"x" * len(content))
    elif change == "size":
        video.write_bytes(content + b"x")
        os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        with video.open("r+b") as file:
            file.write(b"x")
        os.utime(video, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.of(video) != first


def test_what_was_just_written_is_not_trusted_yet(tmp_path: Path, whole_reads: list[str]) -> None:
    # an hour ahead: as if it had been written this moment, however slow this machine is
    video = old_file(tmp_path / "a.mp4", b"frames", age_seconds=-3600)
    hashes = ContentHashes(tmp_path / "store")
    assert hashes.of(video) == hashes.of(video)
    assert len(whole_reads) == 2


@pytest.mark.parametrize("spoilt", ["", "[1, 2]", '{"%s": 3}', '{"%s": {"state": {}, "hash": 7}}'])
def test_a_spoilt_memory_is_forgotten(tmp_path: Path, spoilt: str) -> None:
    video, hashes = old_file(tmp_path / "a.mp4", b"frames"), ContentHashes(tmp_path)
    first = hashes.of(video)
    (tmp_path / "contents.json").write_text(spoilt % video if "%s" in spoilt else spoilt)
    assert hashes.of(video) == first
    assert json.loads((tmp_path / "contents.json").read_text())[str(video)]["hash"] == first


def test_only_the_latest_are_remembered(tmp_path: Path, whole_reads: list[str]) -> None:
    hashes = ContentHashes(tmp_path / "store", most=2)
    videos = [old_file(tmp_path / f"{name}.mp4", name.encode()) for name in "abc"]
    for video in videos:
        hashes.of(video)
    assert hashes.of(videos[2]) == hashes.of(videos[2])
    hashes.of(videos[0])
    assert whole_reads == ["a.mp4", "b.mp4", "c.mp4", "a.mp4"]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    video = old_file(tmp_path / "a.mp4", b"frames")
    hashes = ContentHashes(tmp_path / "file" / "below")
    assert hashes.of(video) == hashes.of(video)
    with pytest.raises(FileNotFoundError):
        hashes.of(tmp_path / "none.mp4")
