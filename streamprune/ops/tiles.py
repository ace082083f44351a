"""Blocks that tile a grid: how many, where their edges are, which token stands in the middle."""

from __future__ import annotations

import torch


def block_layout(rows: int, cols: int, room: int) -> tuple[int, int]:
    """Blocks (down, across) of a grid, the smallest and squarest of all layouts of up to ``room``."""
    layouts = [(down, min(cols, room // down)) for down in range(1, min(rows, room) + 1)]
    # a token's mean squared distance from its block's centre grows with this sum
    return min(layouts, key=lambda shape: (rows / shape[0]) ** 2 + (cols / shape[1]) ** 2)


def tile(length: int, blocks: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut ``length`` places into ``blocks`` runs: each place's run, and each run's middle place and size."""
    edges = torch.arange(blocks + 1, device=device) * length // blocks
    size = edges.diff()
    run = torch.repeat_interleave(torch.arange(blocks, device=device), size)
    return run, edges[:-1] + (size - 1) // 2, size
