"""Recorded outputs of the stock video processor are reproduced bit for bit, whatever the frames look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.preprocessing import FrameTransform

RECORDED = Path(__file__).parent / "data" / "llava_onevision_pixels.npz"
SQUARE = {"size": {"height": 28, "width": 28}}
WIDE: dict[str, Any] = {"size": {"height": 24, "width": 30}}
HALF = {**WIDE, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("upscale", SQUARE),
        ("downscale", SQUARE),
        ("same_size", SQUARE),
        ("odd", SQUARE),
        ("half_mean", HALF),
        ("bilinear", {**WIDE, "resample": 2}),
    ],
)
def test_equals_the_stock_processor(name: str, settings: dict[str, Any]) -> None:
    with np.load(RECORDED) as recorded:
        images, expected = recorded[f"{name}_images"], torch.from_numpy(recorded[f"{name}_pixels"])
    pixels = FrameTransform.from_settings(settings, (384, 384))(list(images), CPU)
    assert pixels.dtype == torch.float32
    assert torch.equal(pixels, expected)


def test_equals_the_stock_processor_at_its_own_size() -> None:
    row, col = np.mgrid[0:270, 0:480]
    levels = [(col * col // 600 + row) % 256, (row * row // 300 + 2 * col) % 256, (row * col // 500) % 256]
    image = np.stack(levels, -1).astype(np.uint8)
    with np.load(RECORDED) as recorded:
        expected = torch.from_numpy(recorded["native_every_16th"])
    pixels = FrameTransform.from_settings({}, (384, 384))([image], CPU)
    assert tuple(pixels.shape) == (1, 3, 384, 384)
    assert torch.equal(pixels[:, :, ::16, ::16], expected)


def test_frames_of_several_sizes_become_one_tensor() -> None:
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((9, 31, 3), (28, 28, 3), (80, 20, 3))]
    transform = FrameTransform.from_settings(SQUARE, (28, 28))
    together = transform(images, CPU)
    apart = torch.cat([transform([image], CPU) for image in images])
    assert torch.equal(together, apart)


def test_read_only_and_strided_frames_are_taken_as_they_are() -> None:
    image = np.random.default_rng(4).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    transform = FrameTransform.from_settings(SQUARE, (28, 28))
    expected = transform([image[:, ::-1].copy()], CPU)
    image.setflags(write=False)
    assert torch.equal(transform([image[:, ::-1]], CPU), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_center_crop": True},
        {"do_resize": False},
        {"do_normalize": False},
        {"do_rescale": False},
        {"resample": 0},
        {"size": {"shortest_edge": 28}},
        {"size": 28},
    ],
)
def test_steps_that_are_not_done_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError, match="video processor's settings"):
        FrameTransform.from_settings(settings, (28, 28))


@pytest.mark.parametrize("settings", [SQUARE, HALF, {**WIDE, "rescale_factor": 1 / 127}], ids=str)
def test_levels_are_found_again_and_become_the_same_pixels(settings: dict[str, Any]) -> None:
    transform = FrameTransform.from_settings(settings, (384, 384))
    rows, cols = transform.size
    every = np.arange(2 * rows * cols * 3, dtype=np.uint8).reshape(
        2, rows, cols, 3
    )  # each level, each colour
    pixels = transform(list(every), CPU)
    again = list(transform.levels(pixels))
    assert all(np.array_equal(one, image) for one, image in zip(again, every, strict=True))
    assert torch.equal(transform(again, CPU), pixels)
