"""What answers lose when the tower recomputes of every frame only what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.world import StreamQuestion, stream
from streamprune.pipelines.offline import VideoLLM
from streamprune.readers import open_source
from streamprune.recipe import Choice, Recipe

# consecutive frames that a question is about; a window in every chapter of a stream
_FRAMES, _CHAPTER, _ERA = 16, 32, 448
_FPS = 2.0
_FIRST_SEED = 5000
# the longest answer of the world has four words
_MAX_NEW_TOKENS = 8


@dataclass(frozen=True)
class Window:
    """Consecutive frames of a stream and what is asked about them.

    Attributes:
        frames: uint8 (frames, rows, cols, 3).
        questions: that these frames answer.
    """

    frames: NDArray[np.uint8]
    questions: tuple[StreamQuestion, ...]


def windows(count: int, *, static: bool) -> list[Window]:
    """Windows of held-out streams with ``count`` questions in all; ``static`` = cameras that stand."""
    found: list[Window] = []
    asked, seed = 0, _FIRST_SEED
    while asked < count:
        video = stream(seed, "eval", era_frames=_ERA, static=static)
        for start in range(_CHAPTER // 4, _ERA, _CHAPTER):
            stop = start + _FRAMES
            questions = video.questions(stop, since=start)[: count - asked]
            if questions:
                found.append(Window(video.frames(start, stop), tuple(questions)))
                asked += len(questions)
        seed += 1
    return found


def reuse_losses(
    vlm: VideoLLM,
    methods: Mapping[str, Mapping[str, Any]],
    questions: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Right answers with each setting of the method ``stc``, beside those of the plain tower.

    Args:
        methods: options by the name of the setting.
        questions: about static streams, and as many about moving ones.
        progress: told about every setting.

    Yields:
        For each setting and kind of stream ``accuracy`` and ``full_accuracy`` in [0, 1], ``loss_points`` in
        hundredths, and ``tower_share``, of the tokens over all layers that were computed.
    """
    recipes = {name: Recipe(name, {"encoder": Choice("stc", options)}) for name, options in methods.items()}
    done, total = 0, 2 * (1 + len(recipes))
    for static in (True, False):
        asked = windows(questions, static=static)
        full, _ = _right(vlm, asked, None)
        for number, (name, recipe) in enumerate(recipes.items()):
            right, share = _right(vlm, asked, recipe)
            done += 2 if number == 0 else 1
            if progress is not None:
                progress("ask", done, total)
            yield {
                "scene": "static stream" if static else "moving stream",
                "method": name,
                "questions": questions,
                "accuracy": round(right / questions, 4),
                "full_accuracy": round(full / questions, 4),
                "loss_points": round(100 * (full - right) / questions, 2),
                "tower_share": round(share, 4),
            }


def _right(vlm: VideoLLM, asked: Sequence[Window], recipe: Recipe | None) -> tuple[int, float]:
    """How many answers are right, and the mean share of the tower that was computed."""
    right, share = 0, 0.0
    for window in asked:
        with open_source(window.frames, fps=_FPS) as video:
            answers = vlm.ask(
                video,
                [question.text for question in window.questions],
                recipe=recipe,
                num_frames=len(window.frames),
                max_new_tokens=_MAX_NEW_TOKENS,
            )
        pairs = zip(answers, window.questions, strict=True)
        right += sum(answer.text == question.answer for answer, question in pairs)
        share += answers[0].stats.tower_share
    return right, share / len(asked)
