"""Small videos made on the spot, sound and damaged, whose pictures tell their own number.

The number of a frame is drawn as eight black or white squares along the bottom edge, which survive
compression, scaling and turning back: `number_of` reads it. Loaded by tests/conftest.py as the fixture
``media``.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder otherwise prints its whole configuration

ROWS, COLS = 96, 128
NUM_BITS = 8
FPS = 25
MILLISECOND = Fraction(1, 1000)
TS_PACKET_BYTES = 188


def picture(number: int, rows: int = ROWS, cols: int = COLS) -> Image:
    """Draw frame ``number``: a drifting colour gradient, a moving square, and the number in squares."""
    y, x = np.mgrid[0:rows, 0:cols]
    image = np.stack([(x + 3 * number) % 256, (2 * y + number) % 256, (x + y) % 256], axis=-1).astype(
        np.uint8
    )
    left = (5 * number) % (cols - 16)
    image[8:24, left : left + 16] = (250, 40, 40)
    side = cols // NUM_BITS
    for bit in range(NUM_BITS):
        image[rows - rows // 6 :, bit * side : (bit + 1) * side] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: Image) -> int:
    """Read the number back from a frame of any size."""
    rows, cols = image.shape[:2]
    strip, side = image[rows - rows // 9 : rows - rows // 24], cols // NUM_BITS
    margin = side // 4
    squares = [strip[:, bit * side + margin : (bit + 1) * side - margin].mean() for bit in range(NUM_BITS)]
    return sum(1 << bit for bit, level in enumerate(squares) if level > 127)


def write_video(
    path: Path,
    *,
    numbers: Iterable[int] = range(100),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (ROWS, COLS),
    gop: int = 25,
    times_ms: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    audio_seconds: float = 0.0,
    shift_seconds: float = 0.0,
) -> Path:
    """Encode the pictures ``numbers`` at 25 a second, or at ``times_ms``; B-frames and all, as the codec
    likes.

    ``muxer`` holds options of the container, ``shift_seconds`` moves all time stamps, ``audio_seconds`` adds
    a tone.
    """
    quiet = {"libx265": {"x265-params": "log-level=none"}, "libsvtav1": {"svtav1-params": "lp=1"}}.get(
        codec, {}
    )
    with av.open(str(path), "w", container_options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options={**quiet, **(options or {})})
        stream.height, stream.width = size
        stream.pix_fmt, stream.gop_size, stream.codec_context.thread_count = pixel_format, gop, 1
        if times_ms is not None:
            stream.codec_context.time_base = MILLISECOND
        if audio_seconds:
            _write_tone(container, audio_seconds)
        for place, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[place], MILLISECOND
            else:
                frame.pts, frame.time_base = place, Fraction(1, FPS)
            if shift_seconds:
                frame.pts += round(shift_seconds / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path: Path) -> Path:
    """Write a file with a tone and no picture."""
    with av.open(str(path), "w") as container:
        _write_tone(container, 1.0)
    return path


def _write_tone(container: Any, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16_000)
    samples = int(seconds * 16_000)
    for start in range(0, samples, 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def truncate(source: Path, target: Path, share: float = 0.5) -> Path:
    """Keep only the first ``share`` of the bytes."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def zero_tail(source: Path, target: Path, share: float = 0.25) -> Path:
    """Overwrite the last ``share`` of the bytes with zeros."""
    data = source.read_bytes()
    keep = int(len(data) * (1 - share))
    target.write_bytes(data[:keep] + bytes(len(data) - keep))
    return target


def flip_bytes(source: Path, target: Path, *, first: int, count: int = 300, seed: int = 3) -> Path:
    """Overwrite ``count`` random bytes from byte ``first`` on."""
    data, chance = bytearray(source.read_bytes()), random.Random(seed)
    for _ in range(count):
        data[chance.randrange(first, len(data))] = chance.randrange(256)
    target.write_bytes(data)
    return target


def cut_hole(source: Path, target: Path, begin: float = 0.4, end: float = 0.6) -> Path:
    """Take the middle out of an MPEG-TS file, at packet borders."""
    data = source.read_bytes()
    first, last = (int(len(data) * share) // TS_PACKET_BYTES * TS_PACKET_BYTES for share in (begin, end))
    target.write_bytes(data[:first] + data[last:])
    return target


def rotate_mp4(source: Path, target: Path) -> Path:
    """Ask players to turn the picture clockwise by 90 degrees, through the matrix in the track header."""
    data = source.read_bytes()
    straight = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, ROWS << 16, 0, 0x40000000)
    place = data.index(straight, data.index(b"tkhd"))
    target.write_bytes(data[:place] + turned + data[place + len(straight) :])
    return target


def cut_without_decoding(source: Path, target: Path, seconds: float = 0.6) -> Path:
    """Begin later without encoding anew: an edit list hides the pictures before ``seconds``."""
    with (
        av.open(str(source)) as old,
        av.open(
            str(target), "w", container_options={"avoid_negative_ts": "disabled", "use_editlist": "1"}
        ) as new,
    ):
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        assert stream.time_base is not None
        offset = round(seconds / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, copy
            new.mux(packet)
    return target


def vfr_times_ms(num_frames: int = 60) -> list[int]:
    """Return uneven times with one gap of five seconds."""
    steps = [(20, 40, 33, 100)[place % 4] if place != 30 else 5000 for place in range(num_frames)]
    return [sum(steps[:place]) for place in range(num_frames)]


class Media:
    """Makes each clip once a session, in one folder. ``media("vfr.mkv")`` gives its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str) -> Path:
        """Return the path of clip ``name``, one of `RECIPES`."""
        path = self.folder / name
        return path if path.exists() else RECIPES[name](self, path)


FASTSTART = {"movflags": "+faststart"}


def _two_sizes(media: Media, path: Path) -> Path:
    """25 frames of the usual size, then 25 of 64 x 96, in one stream."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt, stream.codec_context.thread_count = (
            ROWS,
            COLS,
            "yuv420p",
            1,
        )
        second: Any = av.CodecContext.create("libx264", "w")
        second.height, second.width, second.pix_fmt, second.thread_count = 64, 96, "yuv420p", 1
        second.framerate, second.time_base = Fraction(FPS), Fraction(1, FPS)
        for encoder, numbers in ((stream.codec_context, range(25)), (second, range(25, 50))):
            size = (encoder.height, encoder.width)
            frames = [
                av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24") for number in numbers
            ]
            for frame, number in zip(frames, numbers, strict=True):
                frame.pts, frame.time_base = number, Fraction(1, FPS)
            for packet in [packet for frame in [*frames, None] for packet in encoder.encode(frame)]:
                packet.stream = stream
                container.mux(packet)
    return path


RECIPES: dict[str, Callable[[Media, Path], Path]] = {
    "h264.mp4": lambda media, path: write_video(path),
    "h264.mkv": lambda media, path: write_video(path),
    "h264.ts": lambda media, path: write_video(path),
    "h264.flv": lambda media, path: write_video(path),
    "faststart.mp4": lambda media, path: write_video(path, muxer=FASTSTART),
    "open_gop.mp4": lambda media, path: write_video(path, options={"x264-params": "open-gop=1:bframes=3"}),
    "one_gop.mkv": lambda media, path: write_video(path, gop=1000, options={"x264-params": "scenecut=0"}),
    "hevc.mp4": lambda media, path: write_video(path, codec="libx265"),
    "hevc_10bit.mkv": lambda media, path: write_video(path, codec="libx265", pixel_format="yuv420p10le"),
    "h264_10bit.mp4": lambda media, path: write_video(path, pixel_format="yuv420p10le"),
    "h264_444.mp4": lambda media, path: write_video(path, pixel_format="yuv444p"),
    "vp9.webm": lambda media, path: write_video(path, codec="libvpx-vp9", options={"deadline": "realtime"}),
    "vp8.webm": lambda media, path: write_video(
        path, codec="libvpx", options={"auto-alt-ref": "1", "lag-in-frames": "16"}
    ),
    "av1.mp4": lambda media, path: write_video(path, codec="libsvtav1", options={"preset": "8", "crf": "20"}),
    "mpeg4.avi": lambda media, path: write_video(path, codec="mpeg4"),
    "mjpeg.avi": lambda media, path: write_video(path, codec="mjpeg", pixel_format="yuvj420p"),
    "odd.mkv": lambda media, path: write_video(path, size=(97, 131), pixel_format="yuv444p"),
    "one_frame.mp4": lambda media, path: write_video(path, numbers=[7]),
    "with_audio.mkv": lambda media, path: write_video(path, audio_seconds=6.0),
    "audio_only.mp4": lambda media, path: write_audio(path),
    "vfr.mp4": lambda media, path: write_video(path, numbers=range(60), times_ms=vfr_times_ms()),
    "vfr.mkv": lambda media, path: write_video(path, numbers=range(60), times_ms=vfr_times_ms()),
    "late.ts": lambda media, path: write_video(path, shift_seconds=10.0),
    "no_duration.mkv": lambda media, path: write_video(path, muxer={"live": "1"}),
    "raw.h264": lambda media, path: write_video(path, options={"x264-params": "bframes=0"}),
    "two_sizes.ts": _two_sizes,
    "rotated.mp4": lambda media, path: rotate_mp4(media("h264.mp4"), path),
    "edit_list.mp4": lambda media, path: cut_without_decoding(media("h264.mp4"), path),
    "truncated.mp4": lambda media, path: truncate(media("faststart.mp4"), path),
    "truncated.mkv": lambda media, path: truncate(media("h264.mkv"), path),
    "truncated.ts": lambda media, path: truncate(media("h264.ts"), path),
    "no_moov.mp4": lambda media, path: truncate(media("h264.mp4"), path),
    "hole.ts": lambda media, path: cut_hole(media("h264.ts"), path),
    "flipped.mp4": lambda media, path: flip_bytes(media("faststart.mp4"), path, first=4000),
    "zeroed.mp4": lambda media, path: zero_tail(media("faststart.mp4"), path),
}
