"""Drawing: shapes and digits as small alpha masks, blended into a frame at integer positions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FRAME_SIDE = 96
CELL_SIDE = 16
CELLS = FRAME_SIDE // CELL_SIDE

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring")
DIGITS = tuple("0123456789")
KINDS = (*SHAPES, *DIGITS)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "orange": (245, 140, 25),
    "yellow": (240, 228, 45),
    "green": (40, 170, 60),
    "cyan": (50, 205, 220),
    "blue": (45, 70, 220),
    "purple": (130, 40, 175),
    "pink": (250, 140, 195),
}
COLOR_NAMES = tuple(COLORS)

_PLATE = (19, 17)  # rows, columns of the dark plate behind a digit
_PLATE_COLOR = (22, 22, 26)
_GLYPHS = (
    "01110100011001110101110011000101110",
    "00100011000010000100001000010001110",
    "01110100010000100010001000100011111",
    "11111000100010000010000011000101110",
    "00010001100101010010111110001000010",
    "11111100001111000001000011000101110",
    "00110010001000011110100011000101110",
    "11111000010001000100010000100001000",
    "01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
)

Grid = NDArray[np.float64]
_SUPERSAMPLE = 4


def _star(u: Grid, v: Grid) -> NDArray[np.bool_]:
    """Five-pointed star, one point up."""
    angle = (np.arctan2(u, -v) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
    radius = np.hypot(u, v)
    inner, half = 0.42, np.pi / 5
    # Edge from the tip (1, 0) to the notch (inner, half), in the sector's own axes.
    x, y = radius * np.cos(angle), np.abs(radius * np.sin(angle))
    notch_x, notch_y = inner * np.cos(half), inner * np.sin(half)
    inside: NDArray[np.bool_] = (x - 1) * notch_y - y * (notch_x - 1) <= 0
    return inside


_INSIDE: dict[str, Callable[[Grid, Grid], NDArray[np.bool_]]] = {
    "circle": lambda u, v: u**2 + v**2 <= 0.9,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.82,
    "triangle": lambda u, v: (v <= 0.8) & (abs(u) * 1.85 <= v + 1.0),
    "diamond": lambda u, v: abs(u) * 1.25 + abs(v) <= 1.0,
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 0.95),
    "star": _star,
    "ring": lambda u, v: (u**2 + v**2 <= 1.0) & (u**2 + v**2 >= 0.3),
}


@functools.cache
def shape_mask(shape: str, half_pixels: int) -> NDArray[np.int32]:
    """Return the alpha mask (0..256) of a shape whose radius is ``half_pixels / 2`` pixels; sides are odd."""
    radius = half_pixels / 2
    reach = int(np.ceil(radius)) + 1
    fine = (np.arange((2 * reach + 1) * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - (reach + 0.5)
    v, u = np.meshgrid(fine / radius, fine / radius, indexing="ij")
    side = 2 * reach + 1
    inside = _INSIDE[shape](u, v).reshape(side, _SUPERSAMPLE, side, _SUPERSAMPLE)
    return np.asarray(np.rint(inside.mean((1, 3)) * 256), np.int32)


@functools.cache
def digit_mask(digit: str) -> NDArray[np.int32]:
    """Return the alpha mask (0 or 256) of a digit's strokes on its plate, shape (19, 17)."""
    bits = np.array([int(bit) for bit in _GLYPHS[int(digit)]], np.int32).reshape(7, 5)
    mask = np.zeros(_PLATE, np.int32)
    mask[2:16, 3:13] = np.kron(bits, np.ones((2, 2), np.int32)) * 256
    return mask


def outline(kind: str, half_pixels: int) -> NDArray[np.int32]:
    """Return the mask (0..256) of all pixels an object covers; for a digit its whole plate."""
    if kind in SHAPES:
        return shape_mask(kind, half_pixels)
    return np.full(_PLATE, 256, np.int32)


def _corner(center: tuple[int, int], size: tuple[int, ...]) -> tuple[int, int]:
    return center[0] - size[0] // 2, center[1] - size[1] // 2


def _blend(
    frame: NDArray[np.int16], mask: NDArray[np.int32], color: NDArray[np.int32], top: int, left: int
) -> None:
    region = frame[top : top + mask.shape[0], left : left + mask.shape[1]]
    below = region.astype(np.int32)
    region[...] = below + (((color - below) * mask[..., None]) >> 8)


def paint(
    frame: NDArray[np.int16], kind: str, half_pixels: int, center: tuple[int, int], color: NDArray[np.int32]
) -> None:
    """Draw one object into ``frame`` (96, 96, 3) in place; it must lie inside the frame."""
    mask = outline(kind, half_pixels)
    top, left = _corner(center, mask.shape)
    if kind in SHAPES:
        _blend(frame, mask, color, top, left)
    else:
        _blend(frame, mask, np.array(_PLATE_COLOR, np.int32), top, left)
        _blend(frame, digit_mask(kind), color, top, left)


def cell_coverage(kind: str, half_pixels: int, center: tuple[int, int]) -> NDArray[np.float32]:
    """Return the share of every 16 x 16 pixel cell that the object covers, shape (6, 6), in [0, 1]."""
    mask = outline(kind, half_pixels)
    top, left = _corner(center, mask.shape)
    canvas = np.zeros((FRAME_SIDE, FRAME_SIDE), np.int32)
    canvas[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    cells = canvas.reshape(CELLS, CELL_SIDE, CELLS, CELL_SIDE).sum((1, 3))
    return np.asarray(cells / (256 * CELL_SIDE * CELL_SIDE), np.float32)
