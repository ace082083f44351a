"""Clips: a script drawn as frames, with questions and the token-level evidence of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamprune.embedded.world.draw import CELLS, FRAME_SIDE, cell_coverage, paint
from streamprune.embedded.world.questions import Question, ask
from streamprune.embedded.world.scenes import Script, script
from streamprune.embedded.world.seeds import Split, check_count, check_split, generator
from streamprune.embedded.world.textures import noise, texture

MAX_FRAMES = 256
_PIXELS = FRAME_SIDE * FRAME_SIDE * 3


def render_script(plan: Script, split: Split, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Draw the frames of a script at ``indices``: uint8 RGB (len(indices), 96, 96, 3)."""
    frames = np.empty((len(indices), FRAME_SIDE, FRAME_SIDE, 3), np.int16)
    for row, index in enumerate(indices):
        scene = next(scene for scene in plan.scenes if scene.start <= index < scene.stop)
        age = index - scene.start
        top = round(scene.origin[0] + scene.pan[0] * age)
        left = round(scene.origin[1] + scene.pan[1] * age)
        picture = texture(split, scene.texture)
        frames[row] = picture[top : top + FRAME_SIDE, left : left + FRAME_SIDE]
        for thing in plan.things:
            if thing.start <= index < thing.stop:
                color = np.array(thing.rgb, np.int32)
                paint(frames[row], thing.kind, thing.half_pixels, thing.center(index), color)
    frames *= np.array([plan.gains[i] for i in indices], np.int16)[:, None, None, None]
    frames >>= 6
    grain = noise(split, plan.sigma)
    for row, index in enumerate(indices):
        offset = plan.noise_offsets[index]
        frames[row] += grain[offset : offset + _PIXELS].reshape(frames.shape[1:])
    return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def upscale(frames: NDArray[np.uint8], side: int, nearest: bool = False) -> NDArray[np.uint8]:
    """Resize frames (n, rows, cols, 3) to ``side`` x ``side`` pixels, bicubic unless ``nearest``."""
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), method)) for frame in frames])


def by_slice(coverage: NDArray[np.float32], slice_frames: int) -> NDArray[np.float32]:
    """Coverage (things, frames, ...) to (things, slices, ...): the most in any of a slice's frames."""
    slices = [coverage[:, start::slice_frames] for start in range(slice_frames)]
    most = slices[0].copy()
    for later in slices[1:]:
        np.maximum(most[:, : later.shape[1]], later, out=most[:, : later.shape[1]])
    return most


@dataclass(frozen=True)
class Clip:
    """A clip of the world; ``frames`` and coverages are drawn on first use.

    ``things`` and ``scenes`` are those of ``script``; ``questions`` carry text, answer, type and group.
    """

    seed: int
    split: Split
    script: Script
    questions: tuple[Question, ...]
    fps: float

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.script.frames

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Time of each frame in seconds, shape (frames,)."""
        return np.arange(self.num_frames) / self.fps

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """All frames, uint8 RGB (frames, 96, 96, 3)."""
        return self.render_frames(range(self.num_frames))

    def render_frames(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Some frames only, uint8 RGB (len(indices), 96, 96, 3); the same pixels as in ``frames``."""
        return render_script(self.script, self.split, indices)

    def render(self, side: int) -> NDArray[np.uint8]:
        """All frames enlarged to ``side`` x ``side`` pixels, for writing video files."""
        return upscale(self.frames, side)

    @cached_property
    def coverage(self) -> NDArray[np.float32]:
        """Share of every 16 x 16 cell that each thing covers, (things, frames, 6, 6), in [0, 1]."""
        grid = np.zeros((len(self.script.things), self.num_frames, CELLS, CELLS), np.float32)
        for index, thing in enumerate(self.script.things):
            for frame in range(thing.start, thing.stop):
                if frame > thing.start and thing.center(frame) == thing.center(frame - 1):
                    grid[index, frame] = grid[index, frame - 1]
                else:
                    grid[index, frame] = cell_coverage(thing.kind, thing.half_pixels, thing.center(frame))
        return grid

    def evidence(self, question: Question) -> NDArray[np.float32]:
        """Coverage of every token by the question's evidence objects, (frames, 6, 6), in [0, 1]."""
        return np.asarray(self.evidence_by_thing(question).max(0), np.float32)

    def evidence_by_thing(self, question: Question) -> NDArray[np.float32]:
        """The same for each evidence object apart, (evidence objects, frames, 6, 6)."""
        grid = np.zeros((len(question.spans), self.num_frames, CELLS, CELLS), np.float32)
        for row, (thing, start, stop) in enumerate(question.spans):
            grid[row, start:stop] = self.coverage[thing, start:stop]
        return grid


def clip(
    seed: int,
    frames: int = 16,
    split: Split = "train",
    questions: int = 8,
    *,
    fps: float = 2.0,
    wording: Split | None = None,
    focus: Mapping[str, float] | None = None,
    one_scene_share: float = 0.0,
) -> Clip:
    """Return the clip that belongs to a seed.

    ``frames`` in 1..256; up to ``questions`` different questions in the wordings of ``wording`` (default:
    of the
    split itself); ``focus`` multiplies the frequency of question types, ``one_scene_share`` of the clips
    have one scene only. Raises InvalidValueError or InvalidTypeError for values outside these ranges.
    """
    check_split(split)
    check_count("seed", seed, 0, 2**63 - 1)
    check_count("frames", frames, 1, MAX_FRAMES)
    check_count("questions", questions, 0, 64)
    rng = generator(split, "clip", seed, frames)
    plan = script(rng, frames, one_scene_share)
    asked = ask(plan, rng, questions, wording or split, focus)
    return Clip(seed, split, plan, asked, fps)
