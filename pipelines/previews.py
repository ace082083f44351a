"""A first look at a video, for frame methods that decide by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.frames.content import ContentMethod, Previews, RelevanceMethod
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.question_signals import with_question
from streamprune.readers import Frame, Source

# longer side of the pictures that methods compare, in pixels
_PREVIEW_PIXELS = 64

Scorer = Callable[[str, Sequence[NDArray[np.uint8]]], Sequence[float]]


@dataclass(frozen=True)
class FirstLook:
    """How candidates are fetched and encoded.

    Args:
        decode: yields the frames shown at ascending seconds, some at a time.
        encode: runs frames through the tower with the named signals, a batch at a time.
    """

    family: VideoFamily
    decode: Callable[[Sequence[float]], Iterator[list[Frame]]]
    encode: Callable[[Sequence[Frame], Sequence[str]], Iterator[EncodedFrames]]

    def choose(self, source: Source, method: ContentMethod, question: str | None) -> list[float]:
        """Seconds at which ``method`` wants the frames of ``source``, ascending.

        Raises InvalidValueError for sources that can be read only once, and for a method that asks what a
        question is about when there is none.
        """
        name = type(method).__name__
        if source.info.duration_seconds is None:
            raise InvalidValueError(
                f"{name} looks at a video twice, and {source.info.source} can be read only once; "
                "use fps=, or save it to a file first"
            )
        if isinstance(method, RelevanceMethod) and question is None:
            raise InvalidValueError(
                f"{name} chooses frames by the question: give encode() one with question=, or call ask() "
                "with the video"
            )
        previews = self._look(source, method, question)
        return [previews.times_seconds[place] for place in method.choose(previews)]

    def _look(self, source: Source, method: ContentMethod, question: str | None) -> Previews:
        scorer = method.scorer if isinstance(method, RelevanceMethod) else None
        by_model = "relevance" in method.needs and scorer is None
        encodes = by_model or not method.needs.isdisjoint({"frame_features", "token_features"})
        # towers without a feature of the whole picture: the mean of its tokens stands for it
        named = [n for n in ("frame_features",) if n in method.needs and n in self.family.available_signals()]
        times: list[float] = []
        images: list[NDArray[np.uint8]] = []
        scores: list[float] = []
        parts: list[EncodedFrames] = []
        for frames in self.decode(method.preview_times(source.info)):
            fresh = [frame for frame in frames if not times or frame.pts_seconds > times[-1]]
            times += [frame.pts_seconds for frame in fresh]
            if "images" in method.needs:
                images += [_small(frame.image) for frame in fresh]
            if scorer is not None and question is not None:
                scores += _scored(scorer, question, [frame.image for frame in fresh])
            if encodes:
                parts += self.encode(fresh, named)
        joined = EncodedFrames.join(parts) if parts else None
        if by_model and joined is not None and question is not None:
            scores = self._attention(question, joined)
        return Previews(
            times_seconds=times,
            images=images or None,
            frame_features=_frame_features(joined) if joined is not None else None,
            token_features=_array(joined.features.flatten(1, 2)) if joined is not None else None,
            relevance=np.array(scores) if scores else None,
        )

    def _attention(self, question: str, joined: EncodedFrames) -> list[float]:
        """How much the model, reading the question, attends to each candidate."""
        tokens = joined.tokens(self.family.signals(joined.signals))
        asked = with_question(self.family, question, tokens, ["query_frame_attention"])
        attention: list[float] = asked.tokens.signals["query_frame_attention"].tolist()
        return attention


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
    return found


def _frame_features(encoded: EncodedFrames) -> NDArray[np.float32]:
    given = encoded.signals.get("frame_features")
    return _array(encoded.features.float().mean((1, 2)) if given is None else given)


def _array(values: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = values.float().cpu().numpy()
    return found
