"""The stock Qwen2.5-VL tower run on many slices of one size at once.

The stock forward attends window by window in a Python loop; slices of equal size have equal windows, so that
one batched product does for all. Weights and results are the stock tower's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_position_ids, get_vision_window_index


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], -1)


def _attend(attention: Any, states: Tensor, tables: tuple[Tensor, ...]) -> Tensor:
    """Attend within each of ``states`` (groups, patches, channels); ``tables`` are (groups, patches, d)."""
    groups, length, _ = states.shape
    parts = attention.qkv(states).view(groups, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    cos, sin = (table[:, None] for table in tables)
    query, key = ((x.float() * cos + _half_turned(x.float()) * sin).to(value.dtype) for x in (query, key))
    weights = torch.softmax((query @ key.transpose(-1, -2)).float() * attention.scaling, -1)
    mixed = weights.to(value.dtype) @ value
    out: Tensor = attention.proj(mixed.transpose(1, 2).reshape(groups, length, -1))
    return out


def tower_rows(tower: Any, rows: Tensor, side: int) -> Tensor:
    """The last block's output (slices, patches, channels), tokens in the order of the grid.

    Args:
        rows: what the tower reads, the patches of slices of ``side`` x ``side`` tokens one after another.
    """
    merge, unit = tower.spatial_merge_size, tower.spatial_merge_unit
    grid = torch.tensor([[1, side * merge, side * merge]])
    index, bounds = get_vision_window_index(
        grid, spatial_merge_size=merge, window_size=tower.window_size, patch_size=tower.patch_size
    )
    windows = len(torch.unique_consecutive(bounds)) - 1
    kernel = tower.patch_embed.proj.weight
    states = torch.nn.functional.linear(rows, kernel.flatten(1)).float()
    slices = len(states) // (side * side * unit)
    states = states.view(slices, side * side, unit, -1)[:, index].flatten(1, 2)
    tables = tower.rotary_pos_emb(states, get_vision_position_ids(grid, merge))
    cos, sin = (table.view(side * side, unit, -1)[index].flatten(0, 1) for table in tables)
    for number, block in enumerate(tower.blocks):
        groups = 1 if number in tower.fullatt_block_indexes else windows
        tables = tuple(table.view(groups, -1, table.shape[-1]).repeat(slices, 1, 1) for table in (cos, sin))
        apart = block.norm1(states).view(slices * groups, -1, states.shape[-1])
        states = states + _attend(block.attn, apart, tables).view(states.shape)
        states = states + block.mlp(block.norm2(states))
    return states.view(slices, side * side, unit, -1)[:, torch.argsort(index)].flatten(1, 2)


def merged(tower: Any, patches: Tensor) -> Tensor:
    """Tokens (slices, tokens, channels) of patch features (slices, patches, channels)."""
    tokens: Tensor = tower.merger(patches)
    return tokens.view(len(patches), -1, tokens.shape[-1])
