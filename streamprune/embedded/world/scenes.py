"""What happens in a clip: scenes, the objects in them and where each is in every frame (no pixels yet)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from streamprune.embedded.world.draw import COLOR_NAMES, COLORS, DIGITS, FRAME_SIDE, SHAPES
from streamprune.embedded.world.textures import TEXTURES_PER_SPLIT

Role = Literal["main", "needle", "digit"]
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}
_CENTER = FRAME_SIDE // 2
_CLEAR_PIXELS = 6  # how far from both centre lines an object must be for "top left" and the like to be true
_MAX_OBJECTS = len(SHAPES)


@dataclass(frozen=True)
class Thing:
    """One object: what it is, in which frames ``[start, stop)`` it is seen, and its centre in each."""

    kind: str
    color: str
    role: Role
    scene: int
    start: int
    stop: int
    half_pixels: int
    motion: str
    centers: tuple[tuple[int, int], ...]
    rgb: tuple[int, int, int]

    def center(self, frame: int) -> tuple[int, int]:
        """Centre (row, column) in pixels at a frame in which the object is seen."""
        return self.centers[frame - self.start]

    def quadrant(self, frame: int) -> str | None:
        """Name of the quarter of the frame it is in, or None if it is too near a centre line to say."""
        row, col = self.center(frame)
        if min(abs(row - _CENTER), abs(col - _CENTER)) < _CLEAR_PIXELS:
            return None
        return f"{'top' if row < _CENTER else 'bottom'} {'left' if col < _CENTER else 'right'}"


@dataclass(frozen=True)
class Scene:
    """Frames ``[start, stop)`` between two hard cuts, over one background that may pan slowly."""

    start: int
    stop: int
    texture: int
    origin: tuple[int, int]
    pan: tuple[float, float]


@dataclass(frozen=True)
class Script:
    """A clip before it is drawn."""

    frames: int
    scenes: tuple[Scene, ...]
    things: tuple[Thing, ...]
    sigma: int
    gains: tuple[int, ...]  # brightness of each frame in 64ths
    noise_offsets: tuple[int, ...]


def max_scenes(frames: int) -> int:
    """Largest number of scenes in a clip of that many frames."""
    return 1 if frames < 2 else 2 if frames < 8 else 3 if frames < 16 else 4


def _scene_bounds(rng: np.random.Generator, frames: int, one_scene_share: float) -> list[tuple[int, int]]:
    count = 1 if rng.random() < one_scene_share else int(rng.integers(1, max_scenes(frames) + 1))
    shortest = 1 if frames < 4 else 2 if frames < 16 else 3 if frames < 32 else 5
    spare = frames - count * shortest
    cuts = np.sort(rng.integers(0, spare + 1, count - 1)) + shortest * np.arange(1, count)
    edges = [0, *(int(cut) for cut in cuts), frames]
    return list(pairwise(edges))


def make_scene(rng: np.random.Generator, start: int, stop: int, taken: set[int]) -> Scene:
    texture = int(rng.integers(TEXTURES_PER_SPLIT))
    while texture in taken:
        texture = int(rng.integers(TEXTURES_PER_SPLIT))
    taken.add(texture)
    pan = (0.0, 0.0)
    if rng.random() < 0.35:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(6, 20) / (stop - start)
        pan = (float(np.sin(angle) * reach), float(np.cos(angle) * reach))
    row, col = rng.integers(21, 27, 2)
    return Scene(start, stop, texture, (int(row), int(col)), pan)


def _rgb(rng: np.random.Generator, color: str) -> tuple[int, int, int]:
    red, green, blue = np.clip(np.array(COLORS[color]) + rng.integers(-12, 13, 3), 0, 255)
    return int(red), int(green), int(blue)


def _path(
    rng: np.random.Generator, frames: int, motion: str, half_pixels: int
) -> tuple[tuple[int, int], ...]:
    """Centres of a main object over its scene; it travels 32 to 56 pixels, or not at all."""
    margin = half_pixels // 2 + 3
    low, high = margin, FRAME_SIDE - 1 - margin
    step = np.array(DIRECTIONS[motion])
    travel = int(rng.integers(32, 57)) if step.any() else 0
    row, col = rng.integers(low, high + 1, 2)
    if step.any():
        axis = int(np.argmax(abs(step)))
        begin = int(rng.integers(low, high - travel + 1))
        begin = begin if step[axis] > 0 else FRAME_SIDE - 1 - begin
        row, col = (begin, col) if axis == 0 else (row, begin)
    share = np.linspace(0.0, 1.0, frames)[:, None] if frames > 1 else np.zeros((1, 1))
    points = np.rint(np.array([row, col]) + share * step * travel).astype(int)
    return tuple((int(r), int(c)) for r, c in points)


def _collides(
    things: list[Thing], start: int, centers: tuple[tuple[int, int], ...], half_pixels: int
) -> bool:
    """Whether an object at ``centers`` from frame ``start`` on would touch one that is there already."""
    for other in things:
        for frame in range(max(start, other.start), min(start + len(centers), other.stop)):
            reach = (half_pixels + other.half_pixels) / 2 + 3
            row, col = centers[frame - start]
            other_row, other_col = other.center(frame)
            if (row - other_row) ** 2 + (col - other_col) ** 2 < reach**2:
                return True
    return False


class Casting(Protocol):
    """Whoever says which kind and colour the next object of a role has."""

    def next(self, role: Role) -> tuple[str, str]:
        """Return kind and colour of the next object."""


class Cast:
    """Hands out kinds and colours so that no shape, digit or colour of the same sort appears twice."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))]
        self.colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))]
        self.digits = [DIGITS[i] for i in rng.permutation(len(DIGITS))]
        self.digit_colors = [COLOR_NAMES[i] for i in rng.permutation(len(COLOR_NAMES))]

    def next(self, role: Role) -> tuple[str, str]:
        """Return kind and colour of the next object, never given before."""
        if role == "digit":
            return self.digits.pop(), self.digit_colors.pop()
        return self.shapes.pop(), self.colors.pop()


def add_main(
    rng: np.random.Generator, cast: Casting, things: list[Thing], scene: int, bounds: tuple[int, int]
) -> None:
    start, stop = bounds
    for _ in range(12):
        half_pixels = int(rng.integers(20, 29))
        moving = stop - start > 1 and rng.random() < 0.8
        motion = ("left", "right", "up", "down")[int(rng.integers(4))] if moving else "still"
        centers = _path(rng, stop - start, motion, half_pixels)
        if not _collides(things, start, centers, half_pixels):
            kind, color = cast.next("main")
            rgb = _rgb(rng, color)
            things.append(Thing(kind, color, "main", scene, start, stop, half_pixels, motion, centers, rgb))
            return


def _brief_span(
    rng: np.random.Generator, things: list[Thing], bounds: list[tuple[int, int]], alone: bool
) -> tuple[int, int, int] | None:
    """Scene, start and stop of a one- or two-frame appearance that overlaps no other brief object."""
    scene = int(rng.integers(len(bounds)))
    start, stop = bounds[scene]
    length = min(1 + int(rng.random() < 0.5), stop - start)
    begin = int(rng.integers(start, stop - length + 1))
    busy = any(t.role != "main" and t.start < begin + length and begin < t.stop for t in things)
    return None if alone and busy else (scene, begin, begin + length)


def add_brief(
    rng: np.random.Generator, cast: Casting, things: list[Thing], bounds: list[tuple[int, int]], role: Role
) -> None:
    half_pixels = 19 if role == "digit" else int(rng.integers(13, 18))
    for _ in range(24):
        span = _brief_span(rng, things, bounds, alone=bounds[-1][1] > 2)
        if span is None:
            continue
        scene, start, stop = span
        side = rng.integers(2, size=2)
        row, col = 48 + (2 * side - 1) * rng.integers(8, 36, 2)
        centers = ((int(row), int(col)),) * (stop - start)
        if not _collides(things, start, centers, half_pixels):
            kind, color = cast.next(role)
            rgb = _rgb(rng, color)
            things.append(Thing(kind, color, role, scene, start, stop, half_pixels, "still", centers, rgb))
            return


def _counts(rng: np.random.Generator, frames: int) -> tuple[int, int]:
    """How many needles and how many digits a clip of that many frames gets."""
    if frames < 16:
        return int(rng.random() < 0.85), int(rng.random() < 0.8)
    return 1 + int(rng.random() < 0.6), int(rng.choice(3, p=(0.12, 0.53, 0.35)))


def script(rng: np.random.Generator, frames: int, one_scene_share: float = 0.0) -> Script:
    """Draw the script of a clip; ``one_scene_share`` of the clips have a single scene at any length."""
    bounds = _scene_bounds(rng, frames, one_scene_share)
    taken: set[int] = set()
    scenes = tuple(make_scene(rng, start, stop, taken) for start, stop in bounds)
    cast, things = Cast(rng), list[Thing]()
    num_needles, num_digits = _counts(rng, frames)
    for number, span in enumerate(bounds):
        add_main(rng, cast, things, number, span)
    spare = _MAX_OBJECTS - num_needles - len(things)
    for number, span in enumerate(bounds):
        if spare > 0 and rng.random() < 0.35:
            add_main(rng, cast, things, number, span)
            spare -= 1
    for _ in range(num_needles):
        add_brief(rng, cast, things, bounds, "needle")
    for _ in range(num_digits):
        add_brief(rng, cast, things, bounds, "digit")
    gains: NDArray[np.int64] = rng.integers(60, 69, frames)
    offsets: NDArray[np.int64] = rng.integers(0, 100_000, frames)
    sigma = int(rng.integers(2, 9))
    return Script(frames, scenes, tuple(things), sigma, tuple(gains.tolist()), tuple(offsets.tolist()))
