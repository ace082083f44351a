"""What became of every place in the end, and drawing it over pictures.

The page tells it stage by stage; pictures and films show the last stage that let tokens go.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from streamprune.report.explain.data import (
    CacheHeld,
    Explanation,
    InLLM,
    Kept,
    Picture,
    TowerFates,
    TowerReuse,
)

KEPT, MERGED, DROPPED, REUSED, PARTLY, BEFORE = range(6)
_TINTS = {
    MERGED: (0, 90, 160, 118),
    DROPPED: (12, 16, 22, 214),
    REUSED: (150, 60, 120, 133),
    BEFORE: (70, 78, 88, 230),
}
_MARKS = {MERGED: (150, 212, 255, 215), DROPPED: (255, 255, 255, 97), REUSED: (255, 225, 245, 230)}
_HELD = (12, 16, 22, 205)


@dataclass(frozen=True, eq=False)
class Overlay:
    """Fates of ``rows`` x ``cols`` places of every frame, or of every picture.

    Attributes:
        per_picture: places are counted over pictures, not over frames of tokens.
        state: (places,) what became of each.
        strength: (places,) how much of it is there, for PARTLY.
        legend: (state, words) of those that can occur.
    """

    rows: int
    cols: int
    per_picture: bool
    state: NDArray[np.uint8]
    strength: NDArray[np.float32]
    legend: tuple[tuple[int, str], ...]

    def occurring(self) -> list[tuple[int, str]]:
        """The legend without what does not occur."""
        there = set(self.state.tolist())
        return [(state, words) for state, words in self.legend if state in there]

    def of(self, frame: int, picture: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(rows, cols) states and strengths of a frame of tokens, or of a picture counted over all frames."""
        each = self.rows * self.cols
        first = (picture if self.per_picture else frame) * each
        shape = (self.rows, self.cols)
        part = slice(first, first + each)
        return self.state[part].reshape(shape), self.strength[part].reshape(shape)


def overlay_of(explanation: Explanation) -> Overlay:
    """The last stage that let tokens go, at its last layer."""
    _, rows, cols = explanation.grid
    tower, kept = explanation.tower, explanation.kept
    if explanation.cache is not None:
        return _cached(explanation.cache, kept, rows, cols)
    if explanation.in_llm is not None:
        return _inside(explanation.in_llm, kept, rows, cols)
    if tower is not None and "pre_llm" not in dict(explanation.asked.stages):
        return _reused(tower, rows, cols) if isinstance(tower, TowerReuse) else _climbed(tower)
    legend = ((KEPT, "kept"), (MERGED, "merged into another token"), (DROPPED, "dropped"))
    return _whole(rows, cols, _before(kept), legend)


def _whole(
    rows: int, cols: int, state: NDArray[np.uint8], legend: tuple[tuple[int, str], ...], each: bool = False
) -> Overlay:
    return Overlay(rows, cols, each, state, np.ones(len(state), np.float32), legend)


def _before(kept: Kept) -> NDArray[np.uint8]:
    source = np.array(kept.source)
    index = np.array([*kept.index, -1])  # a dropped token finds the last one
    own = index[source] == np.arange(len(source))
    return np.where(source < 0, DROPPED, np.where(own, KEPT, MERGED)).astype(np.uint8)


def _inside(in_llm: InLLM, kept: Kept, rows: int, cols: int) -> Overlay:
    into = {row: to for _, row, to in in_llm.merged}
    last = in_llm.present[-1]
    stands = np.full(len(kept.index) + 1, -1)
    for row in range(len(kept.index)):
        to: int | None = row
        for _ in range(len(into) + 1):
            if to is None or last[to] == "1":
                break
            to = into.get(to)
        stands[row] = -1 if to is None or last[to] != "1" else to
    source, before = np.array(kept.source), _before(kept)
    to_row = stands[source]
    own = np.array([*kept.index, -1])[to_row] == np.arange(len(source))
    gone = np.where(before == KEPT, DROPPED, BEFORE)
    state = np.where(to_row < 0, gone, np.where(own, KEPT, MERGED)).astype(np.uint8)
    legend = (
        (KEPT, "enters the last layer"),
        (MERGED, "as part of another token"),
        (DROPPED, "let go inside the LLM"),
        (BEFORE, "gone before"),
    )
    return _whole(rows, cols, state, legend)


def _cached(cache: CacheHeld, kept: Kept, rows: int, cols: int) -> Overlay:
    held = np.mean([layer.held for layer in cache.layers], axis=0) / cache.heads
    source = np.array(kept.source)
    strength = np.where(source < 0, 0.0, np.array([*held, 0.0])[source]).astype(np.float32)
    state = np.where(source < 0, BEFORE, np.where(strength > 0, PARTLY, DROPPED)).astype(np.uint8)
    state[strength >= 1] = KEPT
    legend = (
        (KEPT, "held by all heads of all layers"),
        (PARTLY, "held by some"),
        (DROPPED, "held by none"),
        (BEFORE, "gone before"),
    )
    return Overlay(rows, cols, False, state, strength, legend)


def _reused(tower: TowerReuse, rows: int, cols: int) -> Overlay:
    fresh = np.array([[mark == "1" for mark in layer] for layer in tower.recomputed]).any(0)
    state = np.where(fresh, KEPT, REUSED).astype(np.uint8)
    return _whole(rows, cols, state, ((KEPT, "computed anew"), (REUSED, "reused in every layer")))


def _climbed(tower: TowerFates) -> Overlay:
    into, merged = np.array(tower.into), np.array([mark == "1" for mark in tower.merged])
    standing = np.array(tower.left_at) < 0
    state = np.where(standing, KEPT, np.where(merged, MERGED, DROPPED)).astype(np.uint8)
    # what was merged into a patch that was let go later went no further either
    for _ in range(len(tower.layers)):
        state[(state == MERGED) & (state[into] == DROPPED)] = DROPPED
    legend = (
        (KEPT, "goes through the tower"),
        (MERGED, "merged into another patch"),
        (DROPPED, "goes no further"),
    )
    return _whole(tower.rows, tower.cols, state, legend, each=True)


def fitted(picture: Picture, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of ``picture`` when it fills ``size`` as far as its shape allows."""
    scale = min(size[0] / picture.cols, size[1] / picture.rows)
    return max(1, round(picture.cols * scale)), max(1, round(picture.rows * scale))


def drawn(
    picture: Picture, fates: tuple[NDArray[np.uint8], NDArray[np.float32]], size: tuple[int, int]
) -> Image.Image:
    """``picture`` in ``size`` (width, height) with the fates of its places over it."""
    with Image.open(io.BytesIO(picture.still)) as opened:
        image = opened.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    states, strengths = fates
    brush = ImageDraw.Draw(image, "RGBA")
    wide, high = size[0] / states.shape[1], size[1] / states.shape[0]
    for row, col in np.argwhere(states != KEPT):
        box = (col * wide, row * high, (col + 1) * wide, (row + 1) * high)
        draw_fate(brush, int(states[row, col]), float(strengths[row, col]), box)
    return image


def draw_fate(
    brush: ImageDraw.ImageDraw, state: int, strength: float, box: tuple[float, float, float, float]
) -> None:
    """One place; a line for merged, a cross for dropped, a dot for reused, a level for partly held."""
    left, top, right, bottom = box
    inner = (left, top, right - 1, bottom - 1)
    wide, high = right - left, bottom - top
    line = max(1, round(wide / 16))
    if state == PARTLY:
        level = top + high * (1 - strength)
        brush.rectangle((left, top, right - 1, max(top, level - 1)), fill=_HELD)
    elif state in _TINTS:
        brush.rectangle(inner, fill=_TINTS[state])
    if state == MERGED:
        brush.line((left, bottom, right, top), fill=_MARKS[state], width=line)
    elif state == DROPPED:
        a, b = wide * 0.34, high * 0.34
        brush.line((left + a, top + b, right - a, bottom - b), fill=_MARKS[state], width=line)
        brush.line((right - a, top + b, left + a, bottom - b), fill=_MARKS[state], width=line)
    elif state == REUSED:
        x, y, r = (left + right) / 2, (top + bottom) / 2, max(1.5, wide / 9)
        brush.ellipse((x - r, y - r, x + r, y + r), fill=_MARKS[state])
