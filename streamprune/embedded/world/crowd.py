"""Crowded pictures with a label for every token, for the vision tower to learn from.

A picture is what a tower turns into one grid of tokens: a single frame, or two that belong together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.world.clips import render_script
from streamprune.embedded.world.draw import CELLS, COLOR_NAMES, COLORS, KINDS, SHAPES, cell_coverage
from streamprune.embedded.world.scenes import Role, Scene, Script, Thing
from streamprune.embedded.world.seeds import Split, check_count, generator
from streamprune.embedded.world.textures import TEXTURES_PER_SPLIT

BACKGROUND = len(KINDS)  # kind label of a token without an object; its colour label is len(COLOR_NAMES)
_LEAST_COVERAGE = 0.12


@dataclass(frozen=True)
class LabelledFrame:
    """Images (frames, 96, 96, 3) with kind and colour labels per token (36,) and the objects in them."""

    images: NDArray[np.uint8]
    kinds: NDArray[np.int64]
    colors: NDArray[np.int64]
    things: tuple[Thing, ...]


def _place(rng: np.random.Generator, things: list[Thing], half_pixels: int) -> tuple[int, int] | None:
    margin = half_pixels // 2 + 2
    for _ in range(12):
        row, col = (int(x) for x in rng.integers(margin, 96 - margin, 2))
        near = (
            (row - t.center(0)[0]) ** 2 + (col - t.center(0)[1]) ** 2
            < ((half_pixels + t.half_pixels) / 2 + 2) ** 2
            for t in things
        )
        if not any(near):
            return row, col
    return None


def token_labels(things: tuple[Thing, ...], frames: int = 1) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return kind and colour of the object that covers most of each token in any frame, both (36,)."""
    best = np.full(CELLS * CELLS, _LEAST_COVERAGE, np.float32)
    kinds = np.full(CELLS * CELLS, BACKGROUND, np.int64)
    colors = np.full(CELLS * CELLS, len(COLOR_NAMES), np.int64)
    for frame in range(frames):
        for thing in things:
            if thing.start <= frame < thing.stop:
                share = cell_coverage(thing.kind, thing.half_pixels, thing.center(frame)).reshape(-1)
                wins = share > best
                best[wins] = share[wins]
                kinds[wins] = KINDS.index(thing.kind)
                colors[wins] = COLOR_NAMES.index(thing.color)
    return kinds, colors


def _over_two_frames(rng: np.random.Generator, still: Script) -> Script:
    """A frame's script as two frames: objects stay, jump, come or go; sometimes a cut is between them."""
    (scene,) = still.scenes
    cut = bool(rng.random() < 0.15)
    pan = np.clip(np.array(scene.origin) + rng.integers(-6, 7, 2), 0, 47) - scene.origin
    scenes: tuple[Scene, ...] = (replace(scene, stop=2, pan=(float(pan[0]), float(pan[1]))),)
    if cut:
        other = int(rng.integers(TEXTURES_PER_SPLIT))
        scenes = (scene, replace(scene, start=1, stop=2, texture=other))
    things = []
    for thing in still.things:
        luck, step = rng.random(), np.array(rng.integers(-14, 15, 2)) * (rng.integers(2) == np.arange(2))
        start, stop = (1, 2) if luck < 0.25 else (0, 1) if luck < 0.5 else (0, 2)
        if cut and stop - start == 2:
            start, stop = (1, 2) if luck < 0.75 else (0, 1)
        (row, col), margin = thing.centers[0], thing.half_pixels // 2 + 2
        moved = np.clip(np.array([row, col]) + (step if luck > 0.7 else 0), margin, 95 - margin)
        centers = ((row, col), (int(moved[0]), int(moved[1])))[start:stop]
        things.append(replace(thing, start=start, stop=stop, centers=centers))
    gains = (*still.gains, int(rng.integers(60, 69)))
    offsets = (*still.noise_offsets, int(rng.integers(100_000)))
    return Script(2, scenes, tuple(things), still.sigma, gains, offsets)


def crowd(seed: int, split: Split = "train", objects: int = 9, frames: int = 1) -> LabelledFrame:
    """Return a picture of up to ``objects`` objects of any kind, size and colour.

    In a single frame none touches another. In the second of two ``frames`` some have moved a little, some
    are gone and others have come.
    """
    check_count("frames", frames, 1, 2)
    rng = generator(split, "crowd", seed)
    things: list[Thing] = []
    for _ in range(objects):
        role: Role = "digit" if rng.random() < 0.4 else "needle"
        half_pixels = 19 if role == "digit" else int(rng.integers(13, 29))
        center = _place(rng, things, half_pixels)
        if center is None:
            continue
        kind = str(int(rng.integers(10))) if role == "digit" else SHAPES[int(rng.integers(len(SHAPES)))]
        color = COLOR_NAMES[int(rng.integers(len(COLOR_NAMES)))]
        red, green, blue = (
            int(x) for x in np.clip(np.array(COLORS[color]) + rng.integers(-12, 13, 3), 0, 255)
        )
        things.append(Thing(kind, color, role, 0, 0, 1, half_pixels, "still", (center,), (red, green, blue)))
    background = Scene(
        0, 1, int(rng.integers(TEXTURES_PER_SPLIT)), (int(rng.integers(48)), int(rng.integers(48))), (0, 0)
    )
    gain, offset, sigma = int(rng.integers(60, 69)), int(rng.integers(100_000)), int(rng.integers(2, 9))
    plan = Script(1, (background,), tuple(things), sigma, (gain,), (offset,))
    if frames == 2:
        plan = _over_two_frames(rng, plan)
    kinds, colors = token_labels(plan.things, frames)
    return LabelledFrame(render_script(plan, split, range(frames)), kinds, colors, plan.things)
