"""Attention for training on a CPU: exact, in cache-sized blocks of rows, recomputed on the way back.

The stock eager form writes every score matrix to memory several times, the fused one has a slow backward
pass on a
CPU; at 700 tokens this is about twice as fast as either. The mask must be causal (blocks rely on it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "causal_blocks"
_BLOCK_ROWS = 128


def _blocks(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK_ROWS, rows)) for start in range(0, rows, _BLOCK_ROWS)]


def _weights(query: Tensor, key: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Softmax weights (groups, heads * rows, keys) of one block; mask is (rows, keys)."""
    scores = torch.bmm(query, key.transpose(1, 2)).float()
    groups, stacked, keys = scores.shape
    scores = torch.add(mask, scores.view(groups, -1, len(mask), keys), alpha=scale)
    return torch.softmax(scores, -1).view(groups, stacked, keys)


def _stack(x: Tensor, groups: int, start: int, stop: int) -> Tensor:
    """Rows of one clip (heads, rows, d) as (groups, heads per group * rows, d)."""
    return x[:, start:stop].reshape(groups, -1, x.shape[-1])


class _CausalBlocks(torch.autograd.Function):
    """query (clips, heads, rows, d), key and value (clips, groups, rows, d), mask (clips, 1, rows, rows)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
        groups = key.shape[1]
        out = torch.empty_like(query)
        for clip in range(len(query)):
            for start, stop in _blocks(query.shape[2]):
                q = _stack(query[clip], groups, start, stop)
                weights = _weights(q, key[clip, :, :stop], mask[clip, 0, start:stop, :stop], scale)
                mixed = torch.bmm(weights.to(q.dtype), value[clip, :, :stop])
                out[clip, :, start:stop] = mixed.view(query.shape[1], stop - start, -1)
        ctx.save_for_backward(query, key, value, mask, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask, out = ctx.saved_tensors
        grad, groups = grads[0].to(query.dtype), key.shape[1]
        grad_query = torch.empty_like(query)
        grad_key, grad_value = (
            torch.zeros_like(key, dtype=torch.float32),
            torch.zeros_like(value, dtype=torch.float32),
        )
        for clip in range(len(query)):
            for start, stop in _blocks(query.shape[2]):
                q, g = (_stack(x[clip], groups, start, stop) for x in (query, grad))
                k, v = key[clip, :, :stop], value[clip, :, :stop]
                weights = _weights(q, k, mask[clip, 0, start:stop, :stop], ctx.scale)
                inner = (g.float() * _stack(out[clip], groups, start, stop).float()).sum(-1, keepdim=True)
                slope = (
                    torch.bmm(g, v.transpose(1, 2))
                    .float()
                    .sub_(inner)
                    .mul_(weights)
                    .mul_(ctx.scale)
                    .to(q.dtype)
                )
                grad_query[clip, :, start:stop] = torch.bmm(slope, k).view(query.shape[1], stop - start, -1)
                grad_key[clip, :, :stop] += torch.bmm(slope.transpose(1, 2), q)
                grad_value[clip, :, :stop] += torch.bmm(weights.to(q.dtype).transpose(1, 2), g)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **options: Any
) -> tuple[Tensor, None]:
    """The signature transformers calls."""
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast the rotation leaves them float32
    blocks: Callable[..., Tensor] = _CausalBlocks.apply
    out = blocks(query, key, value, attention_mask.float(), options["scaling"])
    return out.transpose(1, 2).contiguous(), None


def register() -> str:
    """Make the implementation known to transformers and return its name."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, eager_mask)
    return NAME
