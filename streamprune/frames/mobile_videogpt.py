"""Mobile-VideoGPT's frame scoring: the frames of a chunk that its tokens attend to most, or least."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamprune.budget import split_evenly
from streamprune.checks import check_count, check_flag
from streamprune.errors import UnknownNameError
from streamprune.frames.content import ContentMethod, Floats, Previews, unit_rows

Take = Literal["highest", "lowest"]

# query rows of one chunk that attend at a time
_QUERY_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class MobileVideoGPT(ContentMethod):
    """Let all tokens of a chunk of frames attend to one another and take the frames attended to most.

    Needs ``encoder_features``. Queries and keys are the features themselves; a frame's score is the attention
    its tokens receive from the chunk. Chunks share ``num_frames`` as evenly as their lengths allow, the first
    ones getting the remainder. By default, as released, 4 frames of each 8 of 16 candidates are taken.

    Args:
        chunk_frames: candidates in a chunk, 1 or more; the last chunk may be shorter.
        take: the ``highest`` scores (the paper) or the ``lowest`` (frames least like the others).
        normalized: divide every token by its length first, so that long ones do not attract everything; the
            release does not.

    Source: arXiv 2503.21782, section 3.2. The release raises when the candidates make no chunks of equal
    length.
    """

    num_frames: int = 8
    preview_fps: float | Fraction | None = None
    max_previews: int = 16
    chunk_frames: int = 8
    take: Take = "highest"
    normalized: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"encoder_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("chunk_frames", self.chunk_frames)
        check_flag("normalized", self.normalized)
        if self.take not in get_args(Take):
            raise UnknownNameError.among("take", self.take, get_args(Take))

    def choose(self, previews: Previews) -> list[int]:
        """The best of every chunk, ascending."""
        features = previews.need("encoder_features", "mobile_videogpt")
        starts = range(0, len(features), self.chunk_frames)
        chunks = [features[start : start + self.chunk_frames] for start in starts]
        shares = split_evenly(self.num_frames, [len(chunk) for chunk in chunks])
        chosen: list[int] = []
        for start, chunk, share in zip(starts, chunks, shares, strict=True):
            if share > 0:
                chosen += sorted(start + frame for frame in self._ranked(chunk)[:share])
        return chosen

    def _ranked(self, chunk: Floats) -> list[int]:
        scores = frame_scores(unit_rows(chunk) if self.normalized else chunk)
        # matrix products of equal rows may differ in the last bits, which must not rank equal frames
        scores = np.round(scores / scores.mean(), 9)
        ranked: list[int] = np.argsort(-scores if self.take == "highest" else scores, kind="stable").tolist()
        return ranked


def frame_scores(features: Floats) -> NDArray[np.float64]:
    """(frames,) attention each frame receives from all tokens, given (frames, tokens, channels).

    The scores add up to the number of tokens.
    """
    frames, tokens, channels = features.shape
    flat = np.asarray(features, np.float64).reshape(frames * tokens, channels)
    received = np.zeros(frames * tokens)
    for start in range(0, len(flat), _QUERY_ROWS):
        logits = flat[start : start + _QUERY_ROWS] @ flat.T / np.sqrt(channels)
        logits -= logits.max(1, keepdims=True)
        weights = np.exp(logits)
        received += (weights / weights.sum(1, keepdims=True)).sum(0)
    scores: NDArray[np.float64] = received.reshape(frames, tokens).sum(1)
    return scores
