"""The options every kind of source takes, checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import get_args

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError, SourceFormatError, UnknownNameError
from streamprune.readers.base import CorruptPolicy, check_seconds
from streamprune.readers.prefetch import DEFAULT_PREFETCH_BYTES

# Twice the 33 million pixels of 8K video; anything above is a mistake or an attack on memory.
DEFAULT_MAX_PIXELS = 2**26
MAX_DEFAULT_THREADS = 4
DEFAULT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How frames are read.

    Args:
        resize: (rows, cols) to scale every frame to; None keeps the source's size.
        corrupt: what to do with a picture the decoder flags as damaged: "keep" it with ``Frame.corrupt`` set,
            "drop" it, or "raise" `SourceFormatError`.
        max_pixels: refuse pictures with more pixels than this before decoding them.
        decode_threads: threads for decoding; None takes the usable cores, at most 4.
        timeout_seconds: longest wait for one frame of a backend that runs in a child process (decord).
        prefetch_bytes: bound on the decoded frames waiting ahead of an iteration; 0 decodes in the caller's
            thread.
    """

    resize: tuple[int, int] | None = None
    corrupt: CorruptPolicy = "keep"
    max_pixels: int = DEFAULT_MAX_PIXELS
    decode_threads: int | None = None
    prefetch_bytes: int = DEFAULT_PREFETCH_BYTES
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS

    def __post_init__(self) -> None:
        if self.corrupt not in get_args(CorruptPolicy):
            raise UnknownNameError.among("corrupt policy", self.corrupt, get_args(CorruptPolicy))
        check_count("max_pixels", self.max_pixels)
        check_count("prefetch_bytes", self.prefetch_bytes, least=0)
        if check_seconds("timeout_seconds", self.timeout_seconds) == 0:
            raise InvalidValueError("timeout_seconds must be above 0, got 0")
        if self.decode_threads is not None:
            check_count("decode_threads", self.decode_threads)
        if self.resize is not None:
            if not isinstance(self.resize, (tuple, list)) or len(self.resize) != 2:
                raise InvalidTypeError(f"resize must be (rows, cols) or None, got {self.resize!r}")
            for size in self.resize:
                check_count("resize (rows, cols)", size)
            self.check_pixels("resize", *self.resize)

    @property
    def num_threads(self) -> int:
        """Threads to decode with."""
        if self.decode_threads is not None:
            return self.decode_threads
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(MAX_DEFAULT_THREADS, usable)

    def output_size(self, rows: int, cols: int) -> tuple[int, int]:
        """Return (rows, cols) of the frames handed out, given the source's own."""
        return self.resize if self.resize is not None else (rows, cols)

    def check_pixels(self, name: str, rows: int, cols: int) -> None:
        """Refuse a picture of more than `max_pixels` pixels."""
        if rows * cols > self.max_pixels:
            raise SourceFormatError(
                f"{name}: {rows} x {cols} pixels are more than max_pixels={self.max_pixels:,}; "
                "shrink it first, or raise max_pixels"
            )
