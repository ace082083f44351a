"""How much of what a question is about is still there after a reduction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.world import Clip, Question
from streamprune.embedded.world.clips import by_slice


def evidence_recall(
    clip: Clip, questions: Sequence[Question], share: NDArray[np.float32], slice_frames: int = 1
) -> list[float]:
    """For each of ``questions`` about ``clip``, how well its evidence survived, in [0, 1].

    ``share`` is that of :func:`streamprune.metrics.evidence.purity`. Of every object a question is about, the
    best surviving token counts: its share of a kept row times how much of it the object covers, over the same
    for the object's best token before the reduction. A question's recall is the mean over its objects. A
    token shows as much of an object as the best of the ``slice_frames`` frames it was made of.
    """
    return [Evidence.of(clip, question, slice_frames).recall(share) for question in questions]


@dataclass(frozen=True)
class Evidence:
    """What one question is about, where it is seen at all.

    Attributes:
        tokens: (seen,) flat indices of the tokens that show any of it.
        covered: (objects, seen) how much of each of them each object covers, in [0, 1].
        best: (objects,) the most of it, above 0.
    """

    tokens: NDArray[np.int64]
    covered: NDArray[np.float32]
    best: NDArray[np.float32]

    @classmethod
    def of(cls, clip: Clip, question: Question, slice_frames: int = 1) -> Self:
        """That of ``question`` about ``clip``."""
        found = by_slice(clip.evidence_by_thing(question), slice_frames)
        flat = found.reshape(len(found), -1)
        flat = flat[flat.max(1) > 0]
        tokens = np.flatnonzero(flat.any(0))
        return cls(tokens, flat[:, tokens], flat.max(1) if len(flat) else np.zeros(0, np.float32))

    def recall(self, share: NDArray[np.float32]) -> float:
        """How well it survived, in [0, 1]; see :func:`evidence_recall`."""
        if not len(self.best):
            return 1.0
        return float(((self.covered * share[self.tokens]).max(1) / self.best).mean())
