"""Which questions are asked about a stream, and when: most about what was seen long ago."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamprune.embedded.world import Stream, StreamQuestion, stream
from streamprune.embedded.world.streams import MIN_ERA_FRAMES
from streamprune.errors import InvalidValueError

# at so many moments, evenly spread, the last at the end
_MOMENTS = 10
# of the questions of a moment, those whose evidence is not old
_FRESH_SHARE = 0.2


def needle_stream(seed: int, frames: int) -> Stream:
    """A held-out stream whose rare objects are seen once in its first ``frames``, at one frame a second."""
    return stream(seed, "eval", era_frames=max(frames, MIN_ERA_FRAMES), repeat=False)


def asked_about(video: Stream, frames: int, count: int) -> list[StreamQuestion]:
    """``count`` questions about the first ``frames`` of ``video``, in the order in which they are asked.

    A moment's questions are of as many kinds as there are, about equally many of each; what an early moment
    has too few of is made up for later. Raises InvalidValueError when there are not so many in all.
    """
    asked: list[StreamQuestion] = []
    for moment in range(1, _MOMENTS + 1):
        at_frame = frames * moment // _MOMENTS
        wanted = count * moment // _MOMENTS - len(asked)
        past = _mixed(video.questions(at_frame, ages=["past"]), video.seed)
        fresh = _mixed(video.questions(at_frame, ages=["recent", "now"]), video.seed)
        few = min(len(fresh), max(int(_FRESH_SHARE * wanted), wanted - len(past)))
        asked += past[: max(0, wanted - few)] + fresh[:few]
    if len(asked) < count:
        raise InvalidValueError(
            f"questions: {frames} frames of stream {video.seed} answer {len(asked)}, not {count}; ask "
            "fewer or show more frames"
        )
    return asked


def _mixed(questions: Sequence[StreamQuestion], seed: int) -> list[StreamQuestion]:
    """``questions`` so that kinds take turns; within a kind in an order made from ``seed``."""
    order = np.random.default_rng(seed).permutation(len(questions))
    turns: dict[tuple[str, str], int] = {}
    keyed = []
    for place in order.tolist():
        question = questions[place]
        kind = (question.age, question.type)
        turns[kind] = turns.get(kind, 0) + 1
        keyed.append((turns[kind], kind, place))
    return [questions[place] for _, _, place in sorted(keyed)]
