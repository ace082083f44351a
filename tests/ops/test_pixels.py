"""Change of the picture under a token, against the pictures before they were cut into patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.pixels import patch_change
from streamprune.tokens import VideoGrid

STD = (0.27, 0.26, 0.28)
SIDE = 3


def patches_of(pictures: np.ndarray[tuple[int, ...], np.dtype], grid: VideoGrid) -> torch.Tensor:
    """Cut (frames * 2, 3, height, width) into rows of one temporal patch, 2 x 2 of them a token."""
    rows = []
    for frame in range(grid.frames):
        for row in range(grid.rows):
            for col in range(grid.cols):
                for down in range(2):
                    for across in range(2):
                        y, x = (2 * row + down) * SIDE, (2 * col + across) * SIDE
                        both = pictures[2 * frame : 2 * frame + 2, :, y : y + SIDE, x : x + SIDE]
                        rows.append(((both - 0.4) / np.array(STD)[:, None, None]).swapaxes(0, 1).ravel())
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("grid", [VideoGrid(3, 2, 2), VideoGrid(2, 1, 3), VideoGrid(1, 2, 2)], ids=str)
def test_last_slice_against_the_first_of_the_frame_before(grid: VideoGrid) -> None:
    shape = (2 * grid.frames, 3, 2 * SIDE * grid.rows, 2 * SIDE * grid.cols)
    pictures = np.random.default_rng(0).random(shape)
    change = patch_change(patches_of(pictures, grid), grid, std=STD)
    assert change.shape == (grid.frames, grid.rows, grid.cols)
    assert not change[0].any()
    difference = np.abs(pictures[3::2] - pictures[:-2:2]).mean(1)
    side = 2 * SIDE
    blocks = difference.reshape(grid.frames - 1, grid.rows, side, grid.cols, side).mean((2, 4))
    np.testing.assert_allclose(change[1:], blocks, atol=1e-6)


@pytest.mark.parametrize("shape", [(15, 18), (16, 17), (16, 3, 6)])
def test_patches_of_another_grid_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"patches must be \(16, a multiple of 6\)"):
        patch_change(torch.zeros(shape), VideoGrid(1, 2, 2), std=STD)
