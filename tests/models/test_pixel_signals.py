"""Signals of the pictures against loops over pixels in float64."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamprune.models.base import VideoFamily
from streamprune.models.pixel_signals import Patches
from streamprune.models.preprocessing import FrameTransform

SIZE = (13, 17)  # of 4 x 4 patches three rows and four columns fit, with a pixel to spare on each side
TRANSFORM = FrameTransform(
    size=SIZE, resample="bicubic", rescale_factor=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)
)
PATCHES = Patches(3, 4, 4, TRANSFORM)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    made = np.random.default_rng(5).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    made[1] = made[0]
    made[2, :4, :4] = 77  # one patch of a single colour
    return made


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    return TRANSFORM(list(images), torch.device("cpu"))


def blocks(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(frames, 12 patches, 16 pixels, 3) levels."""
    inside = images[:, :12, :16].astype(np.float64).reshape(len(images), 3, 4, 4, 4, 3)
    return inside.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), 12, 16, 3)


def test_change_from_the_frame_before(images: NDArray[np.uint8]) -> None:
    levels = blocks(images) / 255
    expected = np.zeros((4, 12))
    expected[1:] = np.abs(np.diff(levels, axis=0)).mean((2, 3))
    found = PATCHES.change(pixels(images))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[1] == 0).all()
    assert (found[2:] > 0.1).all()


def test_frames_may_come_in_parts(images: NDArray[np.uint8]) -> None:
    shown = pixels(images)
    whole = PATCHES.change(shown)
    parts = [
        PATCHES.change(shown[:1]),
        PATCHES.change(shown[1:3], shown[0]),
        PATCHES.change(shown[3:], shown[2]),
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_entropy_of_the_grey_levels(images: NDArray[np.uint8]) -> None:
    grey = np.rint(blocks(images) @ np.array([0.299, 0.587, 0.114])).astype(int)
    expected = np.zeros((4, 12))
    for frame, patch in np.ndindex(4, 12):
        counts = Counter(grey[frame, patch].tolist())
        expected[frame, patch] = -sum(n / 16 * math.log(n / 16) for n in counts.values())
    found = PATCHES.entropy(pixels(images))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found[2, 0] == 0
    assert found.max() <= math.log(16) + 1e-5


def test_a_family_pools_them_as_its_features(family: VideoFamily) -> None:
    shown = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    patches = Patches(7, 7, 4, family.transform)
    names = ("pixel_change", "pixel_entropy")
    found = family.encode(shown, names).signals
    later = family.encode(shown[2:], names, before=shown[1]).signals
    for name, expected in zip(names, (patches.change(shown), patches.entropy(shown)), strict=True):
        pooled = torch.nn.functional.interpolate(expected.reshape(4, 1, 7, 7), size=(4, 4), mode="bilinear")
        torch.testing.assert_close(found[name], pooled[:, 0], rtol=0, atol=1e-6)
        assert torch.equal(later[name], found[name][2:])
    assert (family.encode(shown[2:], names).signals["pixel_change"][0] == 0).all()
