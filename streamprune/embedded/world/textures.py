"""Background textures and sensor noise: two banks of pictures that never meet, one per split."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from streamprune.embedded.world.seeds import generator

TEXTURES_PER_SPLIT = 160
TEXTURE_SIDE = 144
NOISE_LENGTH = 1 << 17
_KINDS = ("blobs", "stripes", "checker", "grain", "gradient")


def _upscaled(rng: np.random.Generator, cells: int) -> NDArray[np.float32]:
    """Smooth noise in [0, 1] with about ``cells`` bumps per side, shape (side, side)."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    smooth = small.resize((TEXTURE_SIDE, TEXTURE_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) / np.float32(255)


def _pattern(rng: np.random.Generator, kind: str) -> NDArray[np.float32]:
    """One grey pattern in about [0, 1], shape (side, side)."""
    rows, cols = np.mgrid[:TEXTURE_SIDE, :TEXTURE_SIDE].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = rows * np.float32(np.sin(angle)) + cols * np.float32(np.cos(angle))
    if kind == "blobs":
        return _upscaled(rng, int(rng.integers(4, 12)))
    if kind == "grain":
        return 0.5 * _upscaled(rng, int(rng.integers(24, 60))) + 0.5 * _upscaled(
            rng, int(rng.integers(8, 20))
        )
    if kind == "stripes":
        period = rng.uniform(8, 28)
        return np.asarray(0.5 + 0.5 * np.sin(along * np.float32(2 * np.pi / period)), np.float32)
    if kind == "checker":
        side = int(rng.integers(8, 22))
        return np.asarray((rows // side + cols // side) % 2, np.float32)
    low, high = float(along.min()), float(along.max())
    return np.asarray((along - low) / (high - low), np.float32)


@functools.lru_cache(maxsize=2 * TEXTURES_PER_SPLIT)
def texture(split: str, index: int) -> NDArray[np.uint8]:
    """Return background ``index`` of a split's bank, uint8 RGB (side, side, 3), pale and low in contrast."""
    rng = generator(split, "texture", index)
    grey = _pattern(rng, _KINDS[index % len(_KINDS)])
    base = rng.uniform(70, 175)
    tint = rng.uniform(-16, 16, 3)
    contrast = rng.uniform(20, 60)
    picture = base + tint + (grey[..., None] - 0.5) * (contrast + rng.uniform(-8, 8, 3))
    picture += (_upscaled(rng, 6)[..., None] - 0.5) * rng.uniform(0, 25)
    fixed: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    fixed.setflags(write=False)
    return fixed


@functools.cache
def noise(split: str, sigma: int) -> NDArray[np.int16]:
    """Return a long row of sensor noise with standard deviation ``sigma`` grey levels."""
    values = generator(split, "noise", sigma).normal(0.0, sigma, NOISE_LENGTH)
    return np.rint(values).astype(np.int16)
