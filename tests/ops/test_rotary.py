"""Rotation against the function of a stock model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2_5_VLTextConfig, Qwen3_5TextConfig, Qwen3VLTextConfig
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from streamprune.ops.rotary import interleaved_axes, rotate, sectioned_axes, turned_further


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


def qwen(config: type, rotary: type, sections: list[int]) -> Any:
    parameters = {"rope_type": "default", "rope_theta": 30.0, "mrope_section": sections}
    parameters["partial_rotary_factor"] = 1.0
    return rotary(config(hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=parameters))


@pytest.mark.parametrize(
    ("config", "rotary", "sections", "axes_of"),
    [
        (Qwen2_5_VLTextConfig, Qwen2_5_VLRotaryEmbedding, [2, 3, 3], sectioned_axes),
        (Qwen2_5_VLTextConfig, Qwen2_5_VLRotaryEmbedding, [4, 1, 3], sectioned_axes),
        (Qwen3VLTextConfig, Qwen3VLTextRotaryEmbedding, [4, 2, 2], interleaved_axes),
        (Qwen3VLTextConfig, Qwen3VLTextRotaryEmbedding, [5, 2, 1], interleaved_axes),
        (Qwen3_5TextConfig, Qwen3_5TextRotaryEmbedding, [4, 2, 2], interleaved_axes),
    ],
)
def test_turning_on_three_axes_is_what_the_stock_model_does_at_the_new_place(
    config: type, rotary: type, sections: list[int], axes_of: Any
) -> None:
    """Moved by another amount on every axis; as one axis would be moved is far off."""
    generator = torch.Generator().manual_seed(2)
    stock = qwen(config, rotary, sections)
    keys = torch.randn(1, 2, 9, 16, generator=generator)
    old, new = torch.randint(0, 60, (2, 3, 1, 9), generator=generator)
    at_old, at_new = (rotate(keys, *(table[:, None] for table in stock(keys, at))) for at in (old, new))
    shift = (new - old)[:, :, None].expand(3, 1, 2, 9)
    axes = axes_of(sections)
    moved = turned_further(at_old, shift, stock.inv_freq, axes)
    torch.testing.assert_close(moved, at_new, rtol=0, atol=1e-5)
    assert (turned_further(at_old, shift[0], stock.inv_freq) - at_new).abs().max() > 0.1
    assert torch.bincount(axes, minlength=3).tolist() == sections
