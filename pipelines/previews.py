"""A first look at a video, for frame methods that decide by what is in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from streamprune.errors import InvalidTypeError, InvalidValueError, SourceFormatError
from streamprune.frames.content import ContentMethod, Previews, RelevanceMethod
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.question_signals import AskedTokens, with_question
from streamprune.pipelines.stopwatch import Stopwatch
from streamprune.readers import Frame, Source

# longer side of the pictures that methods compare, in pixels
_PREVIEW_PIXELS = 64

Scorer = Callable[[str, Sequence[NDArray[np.uint8]]], Iterable[float]]


@dataclass(frozen=True)
class ChosenTimes:
    """Where to look.

    Attributes:
        times_seconds: ascending.
        read_tokens: length of the prompt that the language model read to choose them, 0 for none.
    """

    times_seconds: list[float]
    read_tokens: int = 0


@dataclass(frozen=True)
class FirstLook:
    """How candidates are fetched and encoded.

    Args:
        decode: yields the frames shown at ascending seconds, some at a time.
        encode: runs frames through the tower with the named signals, a batch at a time.
        watch: takes the time of choosing as ``choose``; decoding and encoding count as such.
    """

    family: VideoFamily
    decode: Callable[[Sequence[float]], Iterator[list[Frame]]]
    encode: Callable[[Sequence[Frame], Sequence[str]], Iterator[EncodedFrames]]
    watch: Stopwatch

    def choose(self, source: Source, method: ContentMethod, question: str | None) -> ChosenTimes:
        """Seconds at which ``method`` wants the frames of ``source``.

        Raises InvalidValueError for sources that can be read only once, and for a method that asks what a
        question is about when there is none.
        """
        name = type(method).__name__
        if source.info.duration_seconds is None:
            raise InvalidValueError(
                f"{name} looks at a video twice, and {source.info.source} can be read only once; "
                "use fps=, or save it to a file first"
            )
        reads_question = "relevance" in method.needs
        if reads_question and question is None:
            raise InvalidValueError(
                f"{name} chooses frames by the question: give encode() one with question=, or call ask() "
                "with the video"
            )
        notes, read_tokens = self._look(source, method, question if reads_question else None)
        with self.watch.measure("choose"):
            previews = notes.previews()
            times = [previews.times_seconds[place] for place in method.choose(previews)]
        return ChosenTimes(times, read_tokens)

    def _look(self, source: Source, method: ContentMethod, question: str | None) -> tuple[_Notes, int]:
        """What is known about the candidates, and the length of the prompt that was read for it."""
        scorer = method.scorer if isinstance(method, RelevanceMethod) else None
        reads = question is not None and scorer is None
        notes = _Notes(method.needs, keep_encoded=reads)
        named = method.needs.intersection(_SIGNALS, self.family.available_signals())
        for frames in self.decode(method.preview_times(source.info)):
            # a time at the border of two chunks may show the same frame twice
            fresh = [frame for frame in frames if not notes.times or frame.pts_seconds > notes.times[-1]]
            notes.note_pictures(fresh)
            if scorer is not None and question is not None:
                with self.watch.measure("choose"):
                    notes.relevance += _scored(scorer, question, [frame.image for frame in fresh])
            if reads or not method.needs.isdisjoint(_VECTORS):
                for encoded in self.encode(fresh, sorted(named)):
                    notes.note_encoded(encoded)
        if not notes.times:
            raise SourceFormatError(f"{source.info.source}: none of the frames to choose from can be shown")
        if question is None or scorer is not None:
            return notes, 0
        with self.watch.measure("choose"):
            asked = self._read(question, EncodedFrames.join(notes.encoded))
            notes.relevance += asked.tokens.signals["query_frame_attention"].tolist()
        return notes, asked.read_tokens

    def _read(self, question: str, candidates: EncodedFrames) -> AskedTokens:
        """Let the model read the question about the candidates, to see where it looks."""
        tokens = candidates.tokens(self.family.signals(candidates.signals))
        return with_question(self.family, question, tokens, ["query_frame_attention"])


class _Notes:
    """What a method needs to know about candidates, gathered some at a time; full pictures are let go.

    Args:
        needs: names of fields of :class:`Previews`.
        keep_encoded: hold the tokens of all candidates as well.
    """

    def __init__(self, needs: Collection[str], *, keep_encoded: bool) -> None:
        self.times: list[float] = []
        self.relevance: list[float] = []
        self.encoded: list[EncodedFrames] = []
        self._images: list[NDArray[np.uint8]] | None = [] if "images" in needs else None
        self._vectors: dict[str, list[NDArray[np.float32]]] = {n: [] for n in _VECTORS if n in needs}
        self._keep_encoded = keep_encoded

    def note_pictures(self, frames: Sequence[Frame]) -> None:
        """Times, and small pictures where they are needed."""
        self.times += [frame.pts_seconds for frame in frames]
        if self._images is not None:
            self._images += [_small(frame.image) for frame in frames]

    def note_encoded(self, encoded: EncodedFrames) -> None:
        """The vectors that are needed."""
        for name, parts in self._vectors.items():
            parts.append(_VECTORS[name](encoded).float().cpu().numpy())
        if self._keep_encoded:
            self.encoded.append(encoded)

    def previews(self) -> Previews:
        """All of it."""
        return Previews(
            times_seconds=self.times,
            images=self._images,
            relevance=np.array(self.relevance) if self.relevance else None,
            **{name: np.concatenate(parts) for name, parts in self._vectors.items()},
        )


def _frame_features(encoded: EncodedFrames) -> torch.Tensor:
    """A tower without a feature of the whole picture: the mean of its tokens stands for it."""
    given = encoded.signals.get("frame_features")
    return _mean_features(encoded) if given is None else given


def _mean_features(encoded: EncodedFrames) -> torch.Tensor:
    return encoded.features.float().mean((1, 2))


def _encoder_features(encoded: EncodedFrames) -> torch.Tensor:
    """A family that does not show what leaves its tower: what enters the language model stands for it."""
    return encoded.signals.get("encoder_features", encoded.features).flatten(1, 2)


# signals of the family that are asked for where it has them
_SIGNALS = ("frame_features", "encoder_features")

# how each field of Previews comes from a batch that went through the tower
_VECTORS: dict[str, Callable[[EncodedFrames], torch.Tensor]] = {
    "frame_features": _frame_features,
    "mean_features": _mean_features,
    "token_features": lambda encoded: encoded.features.flatten(1, 2),
    "encoder_features": _encoder_features,
}


def _small(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    picture.thumbnail((_PREVIEW_PIXELS, _PREVIEW_PIXELS), Image.Resampling.BOX)
    return np.asarray(picture)


def _scored(scorer: Scorer, question: str, images: Sequence[NDArray[np.uint8]]) -> list[float]:
    """What the user's scorer says, checked."""
    scores: Any = scorer(question, images)
    try:
        found = [float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise InvalidTypeError(f"scorer must return one number per picture, got {scores!r}") from error
    if len(found) != len(images):
        raise InvalidValueError(
            f"scorer must return one number per picture ({len(images)}), got {len(found)}"
        )
    if not all(map(math.isfinite, found)):
        raise InvalidValueError("scorer must return finite numbers; it returned NaN or inf")
    return found
