"""Rotation against the function of a stock model."""

from __future__ import annotations

import torch
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from streamprune.ops.rotary import rotate, turned_further


def test_rotates_as_the_stock_model_does() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 9, 8, generator=generator) for heads in (4, 2))
    angles = torch.randn(1, 9, 4, generator=generator).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    for rows, expected in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        torch.testing.assert_close(rotate(rows, cos, sin), expected, rtol=0, atol=1e-6)


def test_turning_further_is_rotating_at_another_position() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, 3, 7, 8, generator=generator)
    frequencies = 100.0 ** (-torch.arange(4) / 4)
    old = torch.arange(7) * 3

    def at(places: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        angles = (places[:, None] * frequencies).repeat(1, 2)
        return scale * rotate(rows, angles.cos(), angles.sin())

    new = torch.arange(7)
    torch.testing.assert_close(turned_further(at(old), new - old, frequencies), at(new), rtol=0, atol=1e-5)
    scaled = turned_further(at(old, 1.4), new - old, frequencies)
    torch.testing.assert_close(scaled, at(new, 1.4), rtol=0, atol=1e-5)
    assert torch.equal(turned_further(rows, torch.zeros(7), frequencies), rows)
    assert turned_further(rows.bfloat16(), new, frequencies).dtype == torch.bfloat16
    quarter = turned_further(torch.tensor([1.0, 0.0]), torch.tensor(torch.pi / 2), torch.ones(1))
    torch.testing.assert_close(quarter, torch.tensor([0.0, 1.0]), rtol=0, atol=1e-6)
