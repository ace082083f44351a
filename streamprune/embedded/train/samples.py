"""Training clips: which frames are shown, at which positions, with which questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.world.clips import Clip, clip
from streamprune.embedded.world.questions import Question
from streamprune.embedded.world.seeds import Split

_NEEDS_WHOLE_CLIP = {"when", "count"}
_NEEDS_BOTH_ENDS = {"motion", "describe", "where_main"}


@dataclass(frozen=True)
class Diet:
    """What clips of one training stage look like."""

    frames: int
    questions: int = 8
    one_scene_share: float = 0.0
    memory_share: float = 0.0
    drop_share: float = 0.0
    focus: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Frames shown of a clip, the time slot of each (gaps may be clipped) and the questions kept."""

    clip: Clip
    shown: tuple[int, ...]
    slots: tuple[int, ...]
    questions: tuple[Question, ...]

    @property
    def images(self) -> NDArray[np.uint8]:
        """Shown frames, (shown, 96, 96, 3)."""
        return self.clip.render_frames(self.shown)

    @property
    def coverage(self) -> NDArray[np.float32]:
        """Coverage of each token by each thing, (things, shown, 36)."""
        grid = self.clip.coverage[:, list(self.shown)]
        return grid.reshape(len(grid), len(self.shown), -1)


def plain(seed: int, diet: Diet, split: Split = "train", wording: Split | None = None) -> Sample:
    """A whole clip with all its frames."""
    made = clip(
        seed,
        diet.frames,
        split,
        diet.questions,
        wording=wording,
        focus=diet.focus,
        one_scene_share=diet.one_scene_share,
    )
    every = tuple(range(diet.frames))
    return Sample(made, every, every, made.questions)


def memory_shaped(seed: int, diet: Diet) -> Sample:
    """A longer clip seen through a memory: its last frames, sparse older ones, and clipped gaps between them.

    Half of the old frames are drawn among those with brief objects in them. Questions whose evidence is
    not shown
    are left out, as are those about the clip as a whole.
    """
    rng = np.random.default_rng([2, seed])
    length = int(rng.integers(diet.frames + diet.frames // 2, 3 * diet.frames + 1))
    made = clip(seed, length, "train", 32, focus=diet.focus)
    recent = int(rng.integers(diet.frames // 4, 3 * diet.frames // 4 + 1))
    past = np.arange(length - recent)
    brief = {f for t in made.script.things if t.role != "main" for f in range(t.start, t.stop)}
    worth = rng.random(len(past)) + 0.7 * np.isin(past, list(brief))
    old = np.sort(past[np.argsort(-worth)[: diet.frames - recent]])
    shown = (*(int(i) for i in old), *range(length - recent, length))
    largest = int(rng.integers(1, 5))
    gaps = np.minimum(np.diff(shown), largest)
    slots = (0, *(int(s) for s in np.cumsum(gaps)))
    kept = tuple(q for q in made.questions if _answerable(q, set(shown)))
    return Sample(made, shown, slots, kept[: diet.questions])


def _answerable(question: Question, shown: set[int]) -> bool:
    if question.type in _NEEDS_WHOLE_CLIP:
        return False
    if question.type in _NEEDS_BOTH_ENDS:
        return all(start in shown and stop - 1 in shown for _, start, stop in question.spans)
    return all(shown.intersection(range(start, stop)) for _, start, stop in question.spans)


def draw(seed: int, count: int, diet: Diet, memory: bool) -> list[Sample]:
    """``count`` training samples with consecutive seeds, memory-shaped or plain."""
    make = memory_shaped if memory else plain
    return [make(s, diet) for s in range(seed, seed + count)]
