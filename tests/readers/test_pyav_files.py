"""The default reader gives exactly the frames a plain decoding of the whole file gives, by whatever way."""

from __future__ import annotations

from contextlib import closing
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from streamprune.readers import Frame, Source, open_source
from streamprune.readers.base import Image
from streamprune.readers.options import ReadOptions
from streamprune.readers.prefetch import Prefetcher
from streamprune.readers.pyav_delivery import Decoded, Decoder
from streamprune.readers.pyav_packets import PacketReader
from streamprune.readers.pyav_probe import probe
from streamprune.readers.pyav_targets import TargetReader
from streamprune.readers.report import ReadReport
from tests.readers.media import Media, number_of

WHOLE = [
    "h264.mp4",
    "h264.mkv",
    "h264.ts",
    "h264.flv",
    "open_gop.mp4",
    "one_gop.mkv",
    "hevc.mp4",
    "hevc_10bit.mkv",
    "h264_10bit.mp4",
    "h264_444.mp4",
    "vp9.webm",
    "vp8.webm",
    "av1.mp4",
    "mpeg4.avi",
    "mjpeg.avi",
    "odd.mkv",
    "with_audio.mkv",
    "late.ts",
    "no_duration.mkv",
    "raw.h264",
]
VARIABLE = ["vfr.mp4", "vfr.mkv"]


def plain_decode(path: Path) -> tuple[list[float], list[Image]]:
    """Decode everything in order, without any of the code under test."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    base = frames[0].pts
    times = [
        place / 25
        if frame.pts is None or base is None
        else float((frame.pts - base) * (frame.time_base or 0))
        for place, frame in enumerate(frames)
    ]
    pictures = [frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray() for frame in frames]
    return times, [picture.astype(np.uint8) for picture in pictures]


def assert_same(frames: list[Frame], times: list[float], pictures: list[Image]) -> None:
    assert [frame.pts_seconds for frame in frames] == pytest.approx(times, abs=1e-9)
    for frame, picture in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)


def shown(source: Source, wanted: NDArray[np.float64]) -> list[Frame]:
    return source.sample(wanted.tolist(), keep_repeats=True)


@pytest.mark.parametrize("name", [*WHOLE, *VARIABLE])
def test_every_way_of_reading_agrees_with_plain_decoding(name: str, media: Media) -> None:
    path = media(name)
    times, pictures = plain_decode(path)
    with open_source(path) as source:
        frames = list(source)
        assert_same(frames, times, pictures)
        assert [number_of(frame.image) for frame in frames] == list(range(len(times)))
        assert [frame.index for frame in frames] == list(range(len(times)))
        assert source.info.duration_seconds == pytest.approx(times[-1], abs=0.1)
        assert not source.report.damaged

        dense = np.sort(np.random.default_rng(1).uniform(0, times[-1] + 0.03, 40))
        for wanted in (dense, dense[::9], dense[-2:], dense[:1], np.array([0.0, times[-1], times[-1] + 50])):
            places = [int(np.searchsorted(times, time + 1e-6, side="right")) - 1 for time in wanted]
            assert_same(shown(source, wanted), [times[p] for p in places], [pictures[p] for p in places])

        inside = [place for place, time in enumerate(times) if times[20] + 0.01 <= time < times[47]]
        part = list(source.read(times[20] + 0.01, times[47]))
        assert_same(part, [times[place] for place in inside], [pictures[place] for place in inside])
        assert not source.report.damaged


@pytest.mark.parametrize("name", ["h264.mp4", "h264.ts", "vfr.mkv", "hevc.mp4"])
def test_a_frames_own_time_gives_that_frame(name: str, media: Media) -> None:
    with open_source(media(name)) as source:
        times = [frame.pts_seconds for frame in source]
        assert [frame.pts_seconds for frame in source.sample(times)] == times
        assert [frame.pts_seconds for place in (57, 3, 30) for frame in source.sample([times[place]])] == [
            times[57],
            times[3],
            times[30],
        ]


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.ts", "vp9.webm"])
def test_asking_for_more_frames_than_exist_gives_each_once(name: str, media: Media) -> None:
    with open_source(media(name)) as source:
        frames = source.sample([(place + 0.5) * 4.0 / 333 for place in range(333)])
        assert [frame.index for frame in frames] == list(range(100))
        assert source.report.repeated_times == 233


def test_parallel_decoding_gives_the_same_frames(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamprune.readers.pyav_parallel.MIN_PARALLEL_PIXELS", 0)
    monkeypatch.setattr("streamprune.readers.pyav_parallel.BLIND_SEEK_SECONDS", 0.5)
    for name in ("h264.mp4", "h264.ts", "hevc.mp4", "vfr.mkv", "hole.ts"):
        with (
            open_source(media(name), decode_threads=1) as alone,
            open_source(media(name), decode_threads=3) as crew,
        ):
            wanted = np.linspace(0.1, 3.9, 9)
            one, many = shown(alone, wanted), shown(crew, wanted)
            assert [frame.pts_seconds for frame in one] == [frame.pts_seconds for frame in many]
            assert [frame.index for frame in one] == [frame.index for frame in many]
            assert all((a.image == b.image).all() for a, b in zip(one, many, strict=True))
            assert alone.report == crew.report


@pytest.mark.parametrize(
    "changes",
    [
        {"pyav_packets.PacketReader.seek": lambda reader, seconds: False},
        {"pyav_targets.MAX_HELD_BYTES": 0, "pyav_probe.INDEXED_FORMATS": frozenset()},
        {"pyav_targets.BLIND_SEEK_SECONDS": 0.1, "pyav_probe.INDEXED_FORMATS": frozenset()},
        {"pyav_targets.INDEXED_SEEK_SECONDS": 0.0},
        {"pyav_targets.SKIPPABLE_CODECS": frozenset()},
    ],
    ids=["cannot seek", "holds nothing back", "seeks blindly", "seeks always", "skips no picture"],
)
@pytest.mark.parametrize("name", ["h264.mp4", "open_gop.mp4", "late.ts", "hevc.mp4", "edit_list.mp4"])
def test_no_shortcut_changes_a_frame(
    name: str, changes: dict[str, Any], media: Media, monkeypatch: pytest.MonkeyPatch
) -> None:
    times, pictures = plain_decode(media(name))
    for target, value in changes.items():
        monkeypatch.setattr(f"streamprune.readers.{target}", value)
    with open_source(media(name)) as source:
        places = [3, 4, 30, 31, 47, 76, 84]
        wanted = np.array([times[place] + 0.013 for place in places])
        assert_same(shown(source, wanted), [times[p] for p in places], [pictures[p] for p in places])
        assert not source.report.damaged


def test_one_reader_fetches_run_after_run(media: Media) -> None:
    """A run may begin among packets that were read ahead for the run before, or even earlier."""
    path = media("h264.mp4")
    times, pictures = plain_decode(path)
    options = ReadOptions(decode_threads=1)
    _, facts = probe(path, options)
    with closing(TargetReader(facts, options, ReadReport(), 1, Event())) as reader:
        for places in ([10, 11], [12], [13, 40], [41], [5]):
            found = reader.fetch([times[place] for place in places])
            assert_same(list(found.values()), [times[p] for p in places], [pictures[p] for p in places])


def test_seeks_that_lead_back_are_given_up(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index and with one keyframe, each seek would start over; the reader must notice."""
    monkeypatch.setattr("streamprune.readers.pyav_targets.BLIND_SEEK_SECONDS", 0.2)
    monkeypatch.setattr("streamprune.readers.pyav_probe.INDEXED_FORMATS", frozenset())
    seeks: list[float] = []
    original = PacketReader.seek_before

    def seek_before(reader: PacketReader, seconds: float) -> float:
        seeks.append(seconds)
        return original(reader, seconds)

    monkeypatch.setattr(PacketReader, "seek_before", seek_before)
    with open_source(media("one_gop.mkv")) as source:
        assert [round(f.pts_seconds, 2) for f in source.sample([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5])][
            -1
        ] == 3.48
    assert len(seeks) <= 3


def test_sparse_targets_decode_only_their_own_groups(media: Media, monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[Any] = []
    original = Decoder.decode

    def decode(decoder: Decoder, packet: Any) -> list[Decoded]:
        fed.append(packet)
        return original(decoder, packet)

    monkeypatch.setattr(Decoder, "decode", decode)
    with open_source(media("vp9.webm"), decode_threads=1) as source:  # keyframes at 0, 1, 2, 3 s
        source.sample([1.2, 3.2])
    assert len(fed) < 2 * 10


def test_rotation_is_applied(media: Media) -> None:
    with open_source(media("h264.mp4")) as straight, open_source(media("rotated.mp4")) as turned:
        assert (turned.info.rows, turned.info.cols) == (128, 96)
        assert turned.info.rotation_degrees == 270  # counter-clockwise
        for before, after in zip(straight.sample([0.0, 2.0]), turned.sample([0.0, 2.0]), strict=True):
            np.testing.assert_array_equal(np.rot90(before.image, -1), after.image)
    with open_source(media("rotated.mp4"), resize=(64, 48)) as small:
        assert small.sample([0.0])[0].image.shape == (64, 48, 3)


def test_edit_lists_hide_what_they_hide(media: Media) -> None:
    with open_source(media("edit_list.mp4")) as source:
        frames = list(source)
        assert [number_of(frame.image) for frame in frames] == list(range(15, 100))
        assert frames[0].pts_seconds == 0.0
        assert [number_of(f.image) for f in source.sample([0.0, 0.41, 2.0, 3.3])] == [
            15,
            25,
            65,
            97,
        ]
        assert source.info.duration_seconds == pytest.approx(3.4)


def test_one_frame_and_no_length(media: Media) -> None:
    with open_source(media("one_frame.mp4")) as source:
        assert len(list(source)) == len(source.sample([0.0, 1.0, 2.0])) == 1
        assert source.report.times_past_end == 2
    with open_source(media("no_duration.mkv")) as source:
        assert (source.info.duration_seconds, source.info.num_frames) == (4.0, 100)


def test_what_is_known_is_told(media: Media) -> None:
    with open_source(media("with_audio.mkv")) as source:
        assert source.info.has_audio
        assert source.info.duration_seconds == 4.0  # of the pictures; the sound is longer
    with open_source(media("late.ts")) as source:
        assert source.info.start_seconds == pytest.approx(10.0)
        assert not source.info.has_audio
    with open_source(media("vp9.webm")) as source:
        assert (source.info.codec, source.info.backend, source.info.fps) == ("vp9", "pyav", Fraction(25))
        assert source.keyframes() == [0.0, 1.0, 2.0, 3.0]
        assert [frame.key for frame in source.sample([0.0, 1.0, 1.5])] == [True, True, False]


def test_frames_are_resized(media: Media) -> None:
    with open_source(media("h264.mp4"), resize=(48, 64)) as source:
        assert (source.info.rows, source.info.cols) == (48, 64)
        assert {frame.image.shape for frame in [*source.sample([0.0, 1.0]), *source.read(0, 0.2)]} == {
            (48, 64, 3)
        }


def test_iterating_never_holds_more_than_the_prefetch_bound(media: Media) -> None:
    with open_source(media("h264.mp4"), prefetch_bytes=5 * 96 * 128 * 3) as source:
        frames = source.read()
        assert isinstance(frames, Prefetcher)
        assert sum(1 for _ in frames) == 100
        assert 0 < frames.peak_bytes <= 5 * 96 * 128 * 3


def test_without_prefetch_nothing_runs_in_another_thread(media: Media) -> None:
    with open_source(media("h264.mp4"), prefetch_bytes=0) as source:
        assert len(list(source.read(1.0, 2.0))) == 25
