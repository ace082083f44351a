"""From a source to the visual tokens of its frames, a bounded number of frames at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from streamprune.checks import check_count
from streamprune.encoder.base import EncoderMethod
from streamprune.errors import SourceFormatError
from streamprune.frames import FrameMethod
from streamprune.frames.content import ContentMethod
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.devices import out_of_memory_explained
from streamprune.pipelines.previews import FirstLook
from streamprune.readers import Frame, Source, open_source
from streamprune.tokens import VisualTokens

# called with the stage, how much of it is done, and out of how much
Progress = Callable[[str, int, int], None]

# decoded pictures that are held at once, at their own size
_MAX_HELD_BYTES = 512 * 2**20


@dataclass(frozen=True, kw_only=True)
class EncodedVideo:
    """A video as visual tokens, ready for any number of questions.

    Attributes:
        tokens: features, grid, signals and times.
        source: name of where it came from.
        warnings: what the reader lost or had to guess.
        decode_ms, preprocess_ms, encode_ms: what it took.
        encoder: the method that worked inside the vision tower, None when none did.
        tower_share: share of the tokens, over all layers of the tower, that went through it.
    """

    tokens: VisualTokens
    source: str
    warnings: tuple[str, ...]
    decode_ms: float
    preprocess_ms: float
    encode_ms: float
    encoder: EncoderMethod | None = None
    tower_share: float = 1.0

    @property
    def pts_seconds(self) -> tuple[float, ...]:
        """Times of the frames."""
        return self.tokens.pts_seconds or ()

    def __repr__(self) -> str:
        return f"EncodedVideo({self.source!r}, {self.tokens.grid})"


@dataclass
class _Stopwatch:
    """Milliseconds per stage."""

    device: torch.device
    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        wait_for(self.device)
        self.ms[stage] = self.ms.get(stage, 0.0) + 1000 * (time.perf_counter() - started)


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded.

    Args:
        backend: library that decodes files.
        frames_per_batch: frames that go through the vision tower at once, at least 1.
        progress: told about every chunk and batch.
        encoder: the method that works inside the vision tower.
    """

    backend: str
    frames_per_batch: int
    progress: Progress | None = None
    encoder: EncoderMethod | None = None

    def __post_init__(self) -> None:
        check_count("frames_per_batch", self.frames_per_batch)

    def report(self, stage: str, done: int, total: int) -> None:
        """Tell ``progress``, if anybody listens."""
        if self.progress is not None:
            self.progress(stage, done, total)


def encode_video(
    family: VideoFamily,
    video: Any,
    method: FrameMethod,
    signals: Sequence[str] | None,
    how: Encoding,
    *,
    question: str | None = None,
    check_frames: Callable[[int], None] | None = None,
) -> EncodedVideo:
    """Fetch the frames ``method`` asks for and run them through the vision tower.

    Args:
        video: anything ``open_source`` takes, or an open Source, which stays open.
        signals: names of the signals to compute on the way; None computes the cheap ones and keeps what the
            tower was shown, to compute others when first asked.
        question: what frame methods that ask for it choose by.
        check_frames: called with the number of frames so far, before they are encoded; may raise.
    """
    kept: list[torch.Tensor] | None = [] if signals is None else None
    signals = family.cheap_signals() if signals is None else signals
    family.check_frame_signals(signals)
    if how.encoder is not None:
        family.check_encoder(how.encoder, signals)
    watch = _Stopwatch(family.vision_device())
    source = video if isinstance(video, Source) else open_source(video, backend=how.backend)
    parts: list[EncodedFrames] = []
    pts_seconds: list[float] = []
    try:
        times = _times(family, source, method, question, watch, how)
        for frames in _decode(source, times, watch, how):
            # a time at the border of two chunks may show the same frame twice
            fresh = [frame for frame in frames if not pts_seconds or frame.pts_seconds > pts_seconds[-1]]
            pts_seconds += [frame.pts_seconds for frame in fresh]
            if check_frames is not None and pts_seconds:
                check_frames(len(pts_seconds))
            parts += _encode(family, fresh, signals, watch, how, kept)
        warnings = tuple(source.report.lines())
    finally:
        if source is not video:
            source.close()
    if not parts:
        raise SourceFormatError(
            f"{source.info.source}: none of the {len(times)} frames asked for can be shown"
        )
    encoded = EncodedFrames.join(parts)
    late = KeptFrames(family, kept, how) if kept is not None else None
    return EncodedVideo(
        tokens=encoded.tokens(family.signals(encoded.signals, late), tuple(pts_seconds)),
        source=source.info.source,
        warnings=warnings,
        decode_ms=watch.ms["decode"],
        preprocess_ms=watch.ms["preprocess"],
        encode_ms=watch.ms["encode"],
        encoder=how.encoder,
        tower_share=encoded.tower_share,
    )


def _times(
    family: VideoFamily,
    source: Source,
    method: FrameMethod,
    question: str | None,
    watch: _Stopwatch,
    how: Encoding,
) -> list[float]:
    """Seconds to look at; a method that decides by what is in the video has a first look."""
    if not isinstance(method, ContentMethod):
        return method.times(source.info, source.keyframes() if "keyframes" in method.needs else None)
    first_look = FirstLook(
        family,
        lambda times: _decode(source, times, watch, how),
        lambda frames, signals: _encode(family, frames, signals, watch, how, None),
    )
    return first_look.choose(source, method, question)


@dataclass(frozen=True, eq=False)
class KeptFrames:
    """What the tower was shown, in main memory and in the tower's numbers, to be shown once more.

    This is 3 numbers a pixel: for 384 x 384 pixels in bfloat16 0.9 MB a frame, less than its tokens take.

    Args:
        batches: (frames, 3, rows, cols) each, as they went in.
    """

    family: VideoFamily
    batches: Sequence[torch.Tensor]
    how: Encoding

    def __call__(self, names: Sequence[str]) -> tuple[Mapping[str, torch.Tensor], float]:
        """Run the tower again for the signals ``names``; also returns the milliseconds it took."""
        watch = _Stopwatch(self.family.vision_device())
        parts = []
        for pixels in self.batches:
            explained = out_of_memory_explained(f"encoding {len(pixels)} frames at once")
            with explained, self.family.lock, watch.measure("encode"):
                parts.append(self.family.encode(pixels.to(watch.device), names, self.how.encoder))
        return EncodedFrames.join(parts).signals, watch.ms["encode"]


def _decode(
    source: Source, times: Sequence[float], watch: _Stopwatch, how: Encoding
) -> Iterator[list[Frame]]:
    """Yield the frames shown at ``times``, all at once unless they are huge."""
    frame_bytes = source.info.rows * source.info.cols * 3
    step = max(1, _MAX_HELD_BYTES // frame_bytes)
    for start in range(0, len(times), step):
        with watch.measure("decode"):
            frames = source.sample(times[start : start + step])
        how.report("decode", min(start + step, len(times)), len(times))
        yield frames


def _encode(
    family: VideoFamily,
    frames: Sequence[Frame],
    signals: Sequence[str],
    watch: _Stopwatch,
    how: Encoding,
    kept: list[torch.Tensor] | None,
) -> Iterator[EncodedFrames]:
    """Preprocess and encode ``frames``, a batch at a time; ``kept`` takes what the tower was shown."""
    for start in range(0, len(frames), how.frames_per_batch):
        batch = frames[start : start + how.frames_per_batch]
        with out_of_memory_explained(f"encoding {len(batch)} frames at once"), family.lock:
            with watch.measure("preprocess"):
                pixels = family.preprocess([frame.image for frame in batch])
            with watch.measure("encode"):
                encoded = family.encode(pixels, signals, how.encoder)
        if kept is not None:
            kept.append(pixels.to("cpu", family.vision_dtype()))
        how.report("encode", start + len(batch), len(frames))
        yield encoded
