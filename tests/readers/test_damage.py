"""Damaged files: what can be read is read, what is lost is told, nothing crashes or ends in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamprune.errors import SourceFormatError
from streamprune.readers import open_source
from streamprune.readers.pyav_delivery import DamageMetError
from streamprune.readers.report import ReadReport
from tests.readers.media import Media, flip_bytes, number_of


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """FFmpeg reports each damaged macroblock; that is not what these tests read."""
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("libav").setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("name", "num_frames", "words"),
    [
        ("truncated.mp4", 40, "before the announced end"),
        ("truncated.mkv", 45, "before the announced end"),
        ("hole.ts", 70, "could not be decoded"),
        ("flipped.mp4", 40, "could not be decoded"),
        ("zeroed.mp4", 70, "could not be decoded"),
    ],
)
def test_damage_is_skipped_and_told(
    name: str, num_frames: int, words: str, media: Media, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="streamprune.readers"), open_source(media(name)) as source:
        frames = list(source)
        assert num_frames <= len(frames) < 100
        times = [frame.pts_seconds for frame in frames]
        assert times == sorted(set(times))
        assert source.report.damaged
        assert any(words in line for line in source.report.lines())
        assert words in caplog.text
        assert name in caplog.text
        told = len(caplog.records)
        list(source)
        assert len(caplog.records) == told  # once is enough


@pytest.mark.parametrize("name", ["truncated.mp4", "truncated.mkv", "truncated.ts"])
def test_a_cut_file_is_sampled_over_what_is_there(name: str, media: Media) -> None:
    with open_source(media(name)) as source:
        assert source.info.duration_seconds == pytest.approx(1.95, abs=0.1)
        wanted = [0.1, 0.9, 1.5]
        assert [number_of(frame.image) for frame in source.sample(wanted)] == [2, 22, 37]


@pytest.mark.parametrize("name", ["hole.ts", "flipped.mp4", "zeroed.mp4", "truncated.mp4"])
def test_sampling_a_damaged_file_gives_a_frame_for_every_time(name: str, media: Media) -> None:
    with open_source(media(name)) as source:
        wanted = np.linspace(0, 4, 25).tolist()
        frames = source.sample(wanted, keep_repeats=True)
        assert len(frames) == 25
        assert all(frame.pts_seconds <= time + 1e-6 for frame, time in zip(frames, wanted, strict=True))
        assert source.report.damaged


def test_frames_after_a_hole_are_marked_until_the_next_keyframe(media: Media) -> None:
    with open_source(media("hole.ts")) as source:
        frames = list(source)
    wrong = [f for f in frames if number_of(f.image) != round(f.pts_seconds * 25)]
    assert wrong, "the hole must have spoilt some pictures, or this test shows nothing"
    assert all(frame.corrupt for frame in wrong)
    assert not any(frame.corrupt for frame in frames[:20] + frames[-20:])


def test_damaged_frames_can_be_dropped_or_refused(media: Media) -> None:
    with open_source(media("hole.ts"), corrupt="drop") as source:
        frames = list(source)
        assert all(number_of(f.image) == round(f.pts_seconds * 25) for f in frames)
        assert source.report.dropped_frames > 0
        assert not any(frame.corrupt for frame in source.sample(np.linspace(0, 3.9, 20).tolist()))
        assert source.report.approximate_times > 0
    for use in ("iterate", "sample"):
        with (
            open_source(media("hole.ts"), corrupt="raise") as source,
            pytest.raises(SourceFormatError, match=r"hole\.ts: the frame at .* is damaged"),
        ):
            _ = list(source) if use == "iterate" else source.sample([1.7])


def outcome(path: Path, use: str, **options: Any) -> tuple[list[Any], list[str]]:
    """All that reading a file gives: each frame's time, place, flag and pixels, and the report."""
    with open_source(path, **options) as source:
        if use == "sample":
            frames = source.sample([0.5, 1.5, 2.5, 3.5])
        elif use == "sample densely":
            frames = source.sample(np.linspace(0, 4, 30).tolist())
        else:
            frames = list(source.read(1.3, 3.6) if use == "read a part" else source)
        return [(f.pts_seconds, f.index, f.corrupt, f.image.tobytes()) for f in frames], source.report.lines()


@pytest.mark.parametrize("use", ["sample", "sample densely", "read", "read a part"])
@pytest.mark.parametrize("name", ["flipped.mp4", "zeroed.mp4", "hole.ts", "truncated.mp4"])
def test_damage_looks_the_same_for_any_number_of_threads(name: str, use: str, media: Media) -> None:
    alone = outcome(media(name), use, decode_threads=1)
    assert alone[0]
    assert alone[1]
    for threads in (1, 2, 4, None) * 3:
        assert outcome(media(name), use, decode_threads=threads) == alone


def test_damaged_raw_streams_look_the_same_for_any_number_of_threads(media: Media, tmp_path: Path) -> None:
    """Their packets carry no times, so what was read is repeated from the start."""
    path = flip_bytes(media("raw.h264"), tmp_path / "flipped.h264", first=4000, count=10)
    alone = outcome(path, "read", decode_threads=1)
    assert any("could not be decoded" in line or "are damaged" in line for line in alone[1])
    for threads in (2, 4, None) * 3:
        assert outcome(path, "read", decode_threads=threads) == alone


def test_intact_files_are_never_decoded_twice(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[object] = []
    monkeypatch.setattr(DamageMetError, "__init__", lambda error, *_: met.append(error))
    for name in ("h264.mp4", "open_gop.mp4", "hevc.mp4", "h264.ts", "vp9.webm"):
        for use in ("sample", "sample densely", "read", "read a part"):
            assert outcome(media(name), use, decode_threads=2)[1] == []
    assert met == []
    outcome(media("flipped.mp4"), "read", decode_threads=2)
    assert met, "damage must be met, or this test shows nothing"


def test_a_change_of_size_inside_a_file_is_scaled_and_told(media: Media) -> None:
    with open_source(media("two_sizes.ts")) as source:
        frames = list(source)
        assert {frame.image.shape for frame in frames} == {(96, 128, 3)}
        assert [number_of(frame.image) for frame in frames] == list(range(50))
        assert source.report.rescaled_frames == 25
        assert [number_of(frame.image) for frame in source.sample([0.5, 1.5])] == [12, 37]
        assert any("changed size" in line for line in source.report.lines())


def test_estimated_times_are_marked(media: Media) -> None:
    with open_source(media("raw.h264")) as source:
        frames = list(source.read(0.0, 1.0))
        assert all(frame.pts_estimated for frame in frames)
        assert source.report.estimated_pts == 25


def test_the_same_damage_is_counted_once() -> None:
    first, second = ReadReport(), ReadReport()
    for report in (first, second, second):
        report.note("packet_errors", 7)
    second.note("packet_errors", 8)
    second.note("estimated_pts", None)
    second.note("estimated_pts", None)
    second.missing_end_seconds = 2.5
    first.merge(second)
    assert (first.packet_errors, first.estimated_pts, first.missing_end_seconds) == (2, 2, 2.5)
    assert first.lines()[0] == "the pictures end 2.50 s before the announced end"
    assert ReadReport().lines() == []
    assert not ReadReport().damaged
