"""How much of what a question is about is still there after a reduction."""

from __future__ import annotations

from collections.abc import Sequence

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
    return [recall_of(evidence_of(clip, question, slice_frames), share) for question in questions]


def evidence_of(clip: Clip, question: Question, slice_frames: int = 1) -> NDArray[np.float32]:
    """(objects, tokens) how much of every token each object that ``question`` is about covers, in [0, 1]."""
    found = by_slice(clip.evidence_by_thing(question), slice_frames)
    return found.reshape(len(found), -1)


def recall_of(evidence: NDArray[np.float32], share: NDArray[np.float32]) -> float:
    """How well ``evidence`` (objects, tokens) survived, in [0, 1]; see :func:`evidence_recall`."""
    before = evidence.max(1)
    after = (evidence * share).max(1)
    return float(np.mean(after[before > 0] / before[before > 0])) if (before > 0).any() else 1.0
