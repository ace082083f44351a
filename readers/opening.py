"""The one door: whatever the frames come from, `open_source` gives back a `Source`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, Unpack

from streamprune.checks import check_flag
from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    UnknownNameError,
)
from streamprune.readers.address import read_address
from streamprune.readers.base import CorruptPolicy, check_fps, is_pillow_image
from streamprune.readers.images import IMAGE_SUFFIXES, ImagesSource
from streamprune.readers.iterator import IteratorSource
from streamprune.readers.live_options import LiveOptions, LiveSettings
from streamprune.readers.live_sources import open_live, open_paced
from streamprune.readers.memory import open_array, open_sequence
from streamprune.readers.options import DEFAULT_MAX_PIXELS, DEFAULT_TIMEOUT_SECONDS, ReadOptions
from streamprune.readers.prefetch import DEFAULT_PREFETCH_BYTES
from streamprune.readers.source import Source

# Import strings, so that naming a backend loads nothing until a file is opened with it.
BACKENDS = {
    "pyav": "streamprune.readers.pyav_source:PyavSource",
    "opencv": "streamprune.readers.opencv_source:OpencvSource",
    "decord": "streamprune.readers.decord_source:DecordSource",
    "torchcodec": "streamprune.readers.torchcodec_source:TorchcodecSource",
}


def open_source(
    source: Any,
    *,
    backend: str = "pyav",
    fps: float | Fraction | None = None,
    resize: tuple[int, int] | None = None,
    corrupt: CorruptPolicy = "keep",
    max_pixels: int = DEFAULT_MAX_PIXELS,
    decode_threads: int | None = None,
    prefetch_bytes: int = DEFAULT_PREFETCH_BYTES,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    realtime: bool = False,
    **live: Unpack[LiveSettings],
) -> Source:
    """Open a file, folder, array or iterator of frames, or what goes on by itself: a stream, camera or pipe.

    Args:
        source: a path; a uint8 array or tensor (frames, rows, cols, 3); a list of pictures (rows, cols, 3) or
            of `Frame` objects; an iterator of either, which may be endless; a URL (rtsp, http, rtmp, udp,
            tcp: a `LiveSource`); the number or device of a camera; a named pipe; "-" for standard input.
        backend: library that reads video files: "pyav", "opencv", "decord" or "torchcodec".
        fps: rate of a folder, array or iterator of bare pictures, in frames a second; default 1. Of a live
            source: at most so many.
        resize: (rows, cols) of the frames handed out; None keeps the source's size.
        corrupt: "keep" damaged pictures (marked), "drop" them, or "raise".
        max_pixels: refuse larger pictures before decoding them.
        decode_threads: threads for decoding a file; None takes the usable cores, at most 4.
        prefetch_bytes: bound on the decoded frames waiting ahead of an iteration; 0 decodes in the caller's
            thread. Of a live source: bound on the frames that wait with ``drop`` "every" or "block".
        timeout_seconds: longest wait for one frame of a backend that runs in a child process (decord).
        realtime: play a video file at its own pace, as a camera would show it.
        **live: drop, open_timeout_seconds, read_timeout_seconds, reconnect_seconds, rtsp_transport; see
            :class:`~streamprune.readers.live_options.LiveOptions`.

    Raises an error of `streamprune.errors` that names the source: `SourceNotFoundError`,
    `SourcePermissionError`, `SourceFormatError`, or `InvalidValueError`/`InvalidTypeError` for what is no
    source at all.
    """
    if backend not in BACKENDS:
        raise UnknownNameError.among("backend", backend, BACKENDS)
    options = ReadOptions(
        resize=resize,
        corrupt=corrupt,
        max_pixels=max_pixels,
        decode_threads=decode_threads,
        prefetch_bytes=prefetch_bytes,
        timeout_seconds=timeout_seconds,
    )
    rate = None if fps is None else check_fps("fps", fps)
    check_flag("realtime", realtime)
    how = LiveOptions(fps=rate, **live)  # checked before anything is opened
    address = read_address(source) if isinstance(source, (str, int, os.PathLike)) else None
    if address is not None:
        return open_live(address, how, options)
    if realtime:
        if not isinstance(source, (str, os.PathLike)):
            raise InvalidValueError("realtime=True plays a video file; give its path")
        return open_paced(_open(source, backend, None, options), how, options)
    if live:
        raise InvalidValueError(
            f"{', '.join(sorted(live))} belong to live sources; give a URL or camera, or realtime=True"
        )
    return _open(source, backend, rate, options)


def _open(source: Any, backend: str, rate: Fraction | None, options: ReadOptions) -> Source:
    """Choose by what ``source`` is."""
    if isinstance(source, (str, os.PathLike)):
        return _open_path(_local_path(source), backend, rate, options)
    if isinstance(source, (bytes, bytearray, dict, set)):
        raise InvalidTypeError(
            f"source must be a path, array, list or iterator of frames, got {type(source).__name__}"
        )
    if hasattr(source, "shape") or is_pillow_image(source):
        return open_array(source, rate, options)
    if isinstance(source, Sequence):
        return open_sequence(source, rate, options)
    if isinstance(source, Iterator):
        return IteratorSource(source, rate, options)
    if isinstance(source, Iterable):
        return IteratorSource(iter(source), rate, options)
    raise InvalidTypeError(
        f"source must be a path, array, list or iterator of frames, got {type(source).__name__}"
    )


def _local_path(source: str | os.PathLike[str]) -> Path:
    text = os.fspath(source)
    if not text:
        raise InvalidValueError("source must be the path of a video or folder, got an empty string")
    return Path(text)


def _open_path(path: Path, backend: str, rate: Fraction | None, options: ReadOptions) -> Source:
    try:
        is_folder, is_there = path.is_dir(), path.exists()
    except PermissionError as error:
        raise SourcePermissionError(f"{path}: no permission to look into its folder") from error
    except (OSError, ValueError) as error:  # a name too long, or with a zero byte
        raise SourceNotFoundError(f"{str(path)[:200]!r}: not a path that can exist ({error})") from error
    if not is_there:
        raise SourceNotFoundError(f"{path}: no such file or folder{_near(path)}")
    if is_folder:
        return ImagesSource(path, rate, options)
    _check_readable(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImagesSource(path, rate, options)
    if rate is not None:
        raise InvalidValueError(f"fps cannot be given with {path}: a video file carries its own times")
    module, name = BACKENDS[backend].split(":")
    opener: Callable[[Path, ReadOptions], Source] = getattr(import_module(module), name)
    return opener(path, options)


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except PermissionError as error:
        raise SourcePermissionError(f"{path}: no permission to read it") from error
    except OSError as error:
        raise SourceFormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    if empty:
        raise SourceFormatError(f"{path}: the file is empty (0 bytes)")


def _near(path: Path) -> str:
    """Name the file of the same stem that does exist: a wrong suffix is the usual mistake."""
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist either)"
    alike = sorted(other.name for other in path.parent.glob("*") if other.stem == path.stem)
    return f"; did you mean {alike[0]!r}?" if alike else ""
