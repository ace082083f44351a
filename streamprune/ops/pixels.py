"""How much the picture under a token changes, measured before the vision tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streamprune.errors import InvalidValueError
from streamprune.tokens import VideoGrid


def patch_change(
    patches: torch.Tensor,
    grid: VideoGrid,
    *,
    std: Sequence[float],
    rows_per_token: int = 4,
    slices: int = 2,
) -> torch.Tensor:
    """Mean absolute colour difference of each token's patch from the same patch of the previous frame.

    The last time slice of a frame is held against the first slice of the one before, as released.

    Args:
        patches: (rows, values) flattened normalised patches as Qwen2-VL processors lay them out: frame after
            frame, the rows of a token together, in a row colour, then time slice, then pixel.
        grid: tokens, that is patches after the patch merger.
        std: of each colour, by which pixels in [0, 1] were divided; their mean cancels.
        rows_per_token: patches that the model merges into one token.
        slices: pictures in one temporal patch.

    Returns:
        (frames, rows, cols) float32 in [0, 1]; 0 for the first frame, which has none before it.

    Raises:
        InvalidValueError: the patches do not divide into such tokens.

    Source: arXiv 2504.17343, pixel mode.
    """
    colours, rows = len(std), grid.tokens * rows_per_token
    if patches.ndim != 2 or patches.shape[0] != rows or patches.shape[1] % (colours * slices):
        raise InvalidValueError(
            f"patches must be ({rows}, a multiple of {colours * slices}) for {grid}, "
            f"{rows_per_token} rows a token, {colours} colours and {slices} slices, "
            f"got {tuple(patches.shape)}"
        )
    shape = (grid.frames, grid.tokens_per_frame, rows_per_token, colours, slices, -1)
    pictures = patches.reshape(shape)
    scale = torch.tensor(list(std), device=patches.device)
    change = torch.zeros(grid.frames, grid.tokens_per_frame, device=patches.device)
    for frame in range(1, grid.frames):
        latest, earliest = pictures[frame, ..., -1, :].float(), pictures[frame - 1, ..., 0, :].float()
        change[frame] = ((latest - earliest).abs().mean((1, 3)) * scale).mean(1)
    return change.reshape(grid.frames, grid.rows, grid.cols)
