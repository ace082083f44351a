"""Mobile-VideoGPT's frame scoring: the frames of a chunk that its tokens attend to most, or least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from streamprune.checks import check_count
from streamprune.errors import UnknownNameError
from streamprune.frames.content import ContentMethod, Floats, Previews, unit_rows

# query rows of one chunk that attend at a time
_QUERY_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class MobileVideoGPT(ContentMethod):
    """Let all tokens of a chunk of frames attend to one another and take the frames attended to most.

    Needs ``token_features``. Queries and keys are the features themselves; a frame's score is the attention
    its tokens receive from the chunk. Chunks share ``num_frames`` as evenly as whole frames allow, the first
    ones getting the remainder.

    Args:
        chunk_frames: candidates in a chunk, 1 or more; the last chunk may be shorter.
        take: the ``highest`` scores (the paper) or the ``lowest`` (frames least like the others).
        normalized: divide every token by its length first, so that long ones do not attract everything; the
            release does not.

    Source: arXiv 2503.21782, section 3.2. The release drops a last chunk that is not full; here it counts.
    """

    chunk_frames: int = 16
    take: Literal["highest", "lowest"] = "highest"
    normalized: bool = False

    needs: ClassVar[frozenset[str]] = frozenset({"token_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("chunk_frames", self.chunk_frames)
        if self.take not in get_args(Literal["highest", "lowest"]):
            raise UnknownNameError.among("take", self.take, ("highest", "lowest"))

    def choose(self, previews: Previews) -> list[int]:
        """The best of every chunk, ascending."""
        features = np.asarray(previews.need("token_features", "mobile_videogpt"), np.float64)
        starts = range(0, len(features), self.chunk_frames)
        chosen: list[int] = []
        for number, start in enumerate(starts):
            chunk = features[start : start + self.chunk_frames]
            left = (self.num_frames - len(chosen)) // (len(starts) - number)
            extra = (self.num_frames - len(chosen)) % (len(starts) - number) > 0
            scores = frame_scores(unit_rows(chunk) if self.normalized else chunk)
            order = np.argsort(-scores if self.take == "highest" else scores, kind="stable")
            chosen += sorted(start + int(frame) for frame in order[: left + extra])
        return chosen


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
