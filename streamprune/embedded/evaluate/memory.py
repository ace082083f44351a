"""Questions about a stream's past, asked of what a memory would hold: recent and a few old frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from streamprune.embedded.evaluate.scoring import CELLS, Examinee
from streamprune.embedded.train.language import answers, show
from streamprune.embedded.train.tower import pixels
from streamprune.embedded.world import Question, Stream, StreamQuestion, stream
from streamprune.metrics.shares import share

SHOWN_FRAMES = 16
RECENT_FRAMES = 8
AT_FRAME = 900
LARGEST_GAPS = (1, 2, 4, 1000)


def recalled(question: StreamQuestion, seed: int) -> list[int]:
    """Frames a good memory holds: the last 8, those with a rare object as evidence, older ones at random."""
    frames = set(range(question.at_frame - RECENT_FRAMES, question.at_frame))
    if question.group == "needle":
        for start, stop in question.evidence:
            frames.update(range(start, min(stop, question.at_frame)))
    for number in np.random.default_rng(seed).permutation(question.at_frame - RECENT_FRAMES):
        if len(frames) >= SHOWN_FRAMES:
            break
        frames.add(int(number))
    return sorted(frames)


@torch.no_grad()
def is_right(
    examinee: Examinee, video: Stream, question: StreamQuestion, largest_gap: int, seed: int
) -> bool:
    """Whether the answer is exact when time gaps between shown frames are cut to ``largest_gap``."""
    shown = recalled(question, seed)
    slots = [0, *(int(s) for s in np.cumsum(np.minimum(np.diff(shown), largest_gap)))]
    images = pixels(np.stack([video.frame(number) for number in shown]))
    architecture, model = examinee.architecture, examinee.model
    tokens = architecture.tokens(model, architecture.patches(model, images)).flatten(0, 1)[None]
    asked = [[Question(question.text, question.answer, question.type, ())]]
    every = np.arange(len(shown) * CELLS)[None]
    return answers(architecture, model, show(architecture, tokens, every, [slots]), asked)[0]


def memory_table(examinee: Examinee, questions: int) -> dict[str, Any]:
    """Accuracy on held-out streams per largest time gap; ``questions`` for each, at most 20 per stream."""
    table: dict[str, Any] = {}
    for gap in LARGEST_GAPS:
        found: list[bool] = []
        for seed in range(-(-questions // 20)):
            video = stream(seed, "eval")
            every = video.questions(AT_FRAME)
            chosen = np.random.default_rng(seed).permutation(len(every))[: min(20, questions - len(found))]
            found += [is_right(examinee, video, every[i], gap, int(i)) for i in chosen]
        table[str(gap)] = share(found).entry()
    return table
