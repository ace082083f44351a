"""Rotation against the function of a stock model."""

from __future__ import annotations

import torch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from streamprune.ops.rotary import rotate


def test_rotates_as_the_stock_model_does() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2))
    angles = torch.randn(1, 9, 4, generator=generator).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    for rows, expected in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(rotate(rows, cos, sin), expected, rtol=0, atol=1e-6)
