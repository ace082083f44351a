"""From a source to the visual tokens of its frames, a bounded number of frames at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamprune.checks import check_count
from streamprune.encoder.base import TowerMethod
from streamprune.errors import SourceFormatError
from streamprune.frames import FrameMethod
from streamprune.frames.content import ContentMethod
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.inside_tower import check_inside
from streamprune.models.preprocessing import Clip
from streamprune.pipelines.previews import ChosenTimes, FirstLook
from streamprune.pipelines.shown import ShownFrames
from streamprune.pipelines.stopwatch import Stopwatch
from streamprune.readers import Frame, Source, open_source
from streamprune.tokens import VideoGrid, VisualTokens

if TYPE_CHECKING:
    import torch

    from streamprune.pipelines.stored_encoding import EncodingCache

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
        decode_ms, preprocess_ms, encode_ms: what it took, with the candidates that frames were chosen from.
        choose_ms: what choosing frames took beyond that.
        choose_tokens: length of the prompt that the language model read to choose them, 0 for none.
        encoder: the method that worked inside the vision tower, None when none did.
        tower_share: share of the tokens, over all layers of the tower, that went through it.
        from_cache: it was encoded before and read from disk, so that the stages above took no time.
        cache_ms: what looking for it there, reading or writing it took.
    """

    tokens: VisualTokens
    source: str
    warnings: tuple[str, ...]
    decode_ms: float
    preprocess_ms: float
    encode_ms: float
    choose_ms: float = 0.0
    choose_tokens: int = 0
    encoder: TowerMethod | None = None
    tower_share: float = 1.0
    from_cache: bool = False
    cache_ms: float = 0.0

    @property
    def pts_seconds(self) -> tuple[float, ...]:
        """Times of the frames of tokens, each of which is made of several frames in some families."""
        return self.tokens.pts_seconds or ()

    def __repr__(self) -> str:
        return f"EncodedVideo({self.source!r}, {self.tokens.grid})"


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded.

    Args:
        backend: library that decodes files.
        frames_per_batch: frames that go through the vision tower at once, at least 1.
        progress: told about every chunk and batch.
        encoder: the method that works inside the vision tower.
        cache: where encoded files are kept.
        see: given the frames that are about to be encoded; those read from a cache are not shown.
        watch: makes what times the stages of one video on a device.
    """

    backend: str
    frames_per_batch: int
    progress: Progress | None = None
    encoder: TowerMethod | None = None
    cache: EncodingCache | None = None
    see: Callable[[Sequence[Frame]], None] | None = None
    watch: Callable[[torch.device], Stopwatch] = Stopwatch

    def __post_init__(self) -> None:
        check_count("frames_per_batch", self.frames_per_batch)

    def show(self, frames: Sequence[Frame]) -> None:
        """Show ``frames`` to whoever wants to see them."""
        if self.see is not None:
            self.see(frames)

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
    check_grid: Callable[[VideoGrid], None] | None = None,
) -> EncodedVideo:
    """Fetch the frames ``method`` asks for and run them through the vision tower.

    Args:
        video: anything ``open_source`` takes, or an open Source, which stays open.
        signals: names of the signals to compute on the way; None computes the cheap ones and keeps the
            frames, to compute others when first asked.
        question: what frame methods that ask for it choose by.
        check_grid: called with the grid of the frames so far, before they are encoded; may raise.
    """
    watch = how.watch(family.vision_device())
    shown = ShownFrames(family, how.encoder, watch, keep=signals is None)
    late = shown.show_again if signals is None else None
    signals = family.cheap_signals() if signals is None else signals
    check_encoding(family, signals, how)
    source = video if isinstance(video, Source) else open_source(video, backend=how.backend)
    parts: list[EncodedFrames] = []
    pts_seconds: list[float] = []
    waiting: list[Frame] = []  # for the rest of their slice
    try:
        chosen = _choose(family, source, method, question, watch, how)
        later = max(0, len(chosen.times_seconds) - _frames_at_once(source))
        for frames in _decode(source, chosen.times_seconds, watch, how):
            # a time at the border of two chunks may show the same frame twice
            fresh = [frame for frame in frames if not pts_seconds or frame.pts_seconds > pts_seconds[-1]]
            if fresh and not pts_seconds:
                shown.announce(Clip(len(fresh) + later, *fresh[0].image.shape[:2]))
            how.show(fresh)
            pts_seconds += [frame.pts_seconds for frame in fresh]
            if check_grid is not None and shown.clip is not None:
                check_grid(family.grid(len(pts_seconds), family.frame_size(shown.clip)))
            waiting += fresh
            whole = len(waiting) - len(waiting) % family.frames_per_slice
            parts += _encode(shown, waiting[:whole], signals, how)
            waiting = waiting[whole:]
        parts += _encode(shown, waiting, signals, how)
        warnings = tuple(source.report.lines())
    finally:
        if source is not video:
            source.close()
    if not parts:
        asked = len(chosen.times_seconds)
        raise SourceFormatError(f"{source.info.source}: none of the {asked} frames asked for can be shown")
    encoded = EncodedFrames.join(parts)
    return EncodedVideo(
        tokens=encoded.tokens(family.signals(encoded.signals, late), family.slice_times(pts_seconds)),
        source=source.info.source,
        warnings=warnings,
        decode_ms=watch.ms["decode"],
        preprocess_ms=watch.ms["preprocess"],
        encode_ms=watch.ms["encode"],
        choose_ms=watch.ms.get("choose", 0.0),
        choose_tokens=chosen.read_tokens,
        encoder=how.encoder,
        tower_share=encoded.tower_share,
    )


def check_encoding(family: VideoFamily, signals: Sequence[str], how: Encoding) -> None:
    """Raise for what cannot be encoded, before anything is read."""
    family.check_frame_signals(signals)
    if how.encoder is not None:
        check_inside(family, how.encoder, signals)


def _choose(
    family: VideoFamily,
    source: Source,
    method: FrameMethod,
    question: str | None,
    watch: Stopwatch,
    how: Encoding,
) -> ChosenTimes:
    """Where to look; a method that decides by what is in the video has a first look."""
    if not isinstance(method, ContentMethod):
        keyframes = source.keyframes() if "keyframes" in method.needs else None
        return ChosenTimes(method.times(source.info, keyframes))
    shown = ShownFrames(family, how.encoder, watch)

    def encode(frames: Sequence[Frame], signals: Sequence[str]) -> Iterator[EncodedFrames]:
        # every candidate for itself: it fills a slice alone
        filled = [frame for frame in frames for _ in range(family.frames_per_slice)]
        if frames and shown.clip is None:
            shown.announce(Clip(len(filled), *frames[0].image.shape[:2]))
        return _encode(shown, filled, signals, how)

    first_look = FirstLook(family, lambda times: _decode(source, times, watch, how), encode, watch)
    return first_look.choose(source, method, question)


def _decode(source: Source, times: Sequence[float], watch: Stopwatch, how: Encoding) -> Iterator[list[Frame]]:
    """Yield the frames shown at ``times``, all at once unless they are huge."""
    step = _frames_at_once(source)
    for start in range(0, len(times), step):
        with watch.measure("decode"):
            frames = source.sample(times[start : start + step])
        how.report("decode", min(start + step, len(times)), len(times))
        yield frames


def _frames_at_once(source: Source) -> int:
    """How many decoded pictures are held."""
    return max(1, _MAX_HELD_BYTES // (source.info.rows * source.info.cols * 3))


def _encode(
    shown: ShownFrames, frames: Sequence[Frame], signals: Sequence[str], how: Encoding
) -> Iterator[EncodedFrames]:
    """Encode ``frames``, a batch of whole slices at a time."""
    step = shown.whole_slices(how.frames_per_batch)
    for start in range(0, len(frames), step):
        batch = frames[start : start + step]
        encoded = shown.show([frame.image for frame in batch], signals)
        how.report("encode", start + len(batch), len(frames))
        yield encoded
