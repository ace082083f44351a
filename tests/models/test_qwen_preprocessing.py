"""Recorded outputs of the stock Qwen video processors are reproduced bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.models.pixel_budget import PixelBudget, patch_rows
from streamprune.models.preprocessing import Clip, FrameTransform

RECORDED = Path(__file__).parent / "data" / "qwen_pixels.npz"
CPU = torch.device("cpu")
STOCK: dict[str, dict[str, Any]] = {
    "q2": {"token_side": 28, "slice_frames": 2, "defaults": (128, 768, 128000)},
    "q3": {"token_side": 32, "slice_frames": 2, "defaults": (128, 768, 768), "pixels_of": "clip"},
}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
# least and most tokens' worth of pixels, then the cap
CASES: dict[str, tuple[Any, ...]] = {
    "q2_grow": (16, 64),
    "q2_shrink_odd": (4, 12),
    "q2_same": (4, 64),
    "q2_half_even": (1, 64),
    "q2_strip": (2, 64),
    "q2_capped": (2, 64, 40),
    "q3_grow": (40, 200),
    "q3_shrink_odd": (4, 30),
    "q3_same": (4, 64),
    "q3_small_side": (4, 64),
    "q3_capped": (2, 200, 9),
}


@pytest.fixture(scope="module")
def recorded() -> Iterator[Any]:
    with np.load(RECORDED) as arrays:
        yield arrays


def budget(kind: str, settings: dict[str, Any], **changes: Any) -> PixelBudget:
    return PixelBudget.from_settings(settings, **{**STOCK[kind], **changes})


def rows_of(kind: str, images: Any, size: tuple[int, int], patch: int) -> torch.Tensor:
    transform = FrameTransform.from_settings(HALF if kind == "q3" else {}, size)
    return patch_rows(transform(list(images), CPU), slice_frames=2, patch=patch, merge=2)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_stock_processor(recorded: Any, name: str) -> None:
    least, most, *cap = CASES[name]
    settings: dict[str, Any] = {"size": {"shortest_edge": least * 64, "longest_edge": most * 64}}
    if cap:
        settings |= {"cap_pixels_per_frame": True, "max_video_tokens": cap[0]}
    images, kind = recorded[f"{name}_images"], name[:2]
    size = budget(kind, settings, token_side=8).size(Clip.of(list(images)))
    _, rows, cols = recorded[f"{name}_grid"][0]
    assert size == (4 * rows, 4 * cols)
    assert torch.equal(rows_of(kind, images, size, 4), torch.from_numpy(recorded[f"{name}_rows"]))


@pytest.mark.parametrize("kind", ["q2", "q3"])
def test_equals_the_stock_processor_at_its_own_settings(recorded: Any, kind: str) -> None:
    row, col = np.mgrid[0:270, 0:480]
    levels = [(col * col // 600 + row) % 256, (row * row // 300 + 2 * col) % 256, (row * col // 500) % 256]
    image = np.stack(levels, -1).astype(np.uint8)
    images = [image, image[::-1]]
    size = budget(kind, {}).size(Clip.of(images))
    rows = rows_of(kind, images, size, 14 if kind == "q2" else 16)
    assert len(rows) == recorded[f"{kind}_native_grid"].prod()
    assert torch.equal(rows[::37, ::101], torch.from_numpy(recorded[f"{kind}_native_every"]))


@pytest.mark.parametrize("kind", ["q2", "q3"])
def test_sizes_are_those_of_the_stock_processor(recorded: Any, kind: str) -> None:
    stock = budget(kind, {})
    found = [stock.size(Clip(*clip)) for clip in recorded["sizes"].tolist()]
    assert found == [tuple(size) for size in recorded[f"{kind}_sizes"].tolist()]


@pytest.mark.parametrize(
    "size", [{"shortest_edge": 640, "longest_edge": 6400}, {"min_pixels": 640, "max_pixels": 6400}]
)
def test_settings_files_old_and_new_say_the_same(size: dict[str, int]) -> None:
    new = budget("q2", {"size": size})
    assert (new.min_pixels, new.max_pixels) == (640, 6400)
    # as the stock processor: what stands beside the size wins
    assert budget("q2", {"size": {"longest_edge": 9}, "min_pixels": 640, "max_pixels": 6400}) == new


def test_the_size_of_a_long_clip_is_shared_only_by_the_newer_family() -> None:
    short, long = Clip(4, 360, 640), Clip(400, 360, 640)
    assert budget("q2", {}).size(short) == budget("q2", {}).size(long)
    few, many = budget("q3", {}).size(short), budget("q3", {}).size(long)
    assert many[0] * many[1] < few[0] * few[1]


def test_a_lone_frame_fills_its_slice() -> None:
    pixels = torch.randn(3, 3, 8, 16)
    padded = torch.cat([pixels, pixels[-1:]])
    options = {"slice_frames": 2, "patch": 4, "merge": 2}
    assert torch.equal(patch_rows(pixels, **options), patch_rows(padded, **options))


@pytest.mark.parametrize("kind", ["q2", "q3"])
def test_a_strip_is_refused(kind: str) -> None:
    with pytest.raises(InvalidValueError, match="2 x 900 pixels is more than 200 times longer"):
        budget(kind, {}).size(Clip(2, 2, 900))


@pytest.mark.parametrize("size", [{"height": 28, "width": 28}, 28])
def test_a_fixed_size_is_refused(size: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="shortest_edge"):
        budget("q2", {"size": size})
