"""Queries and keys against those that stock layers hand to their rotation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen3_5TextConfig, Qwen3Config
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3_5 import modeling_qwen3_5

from streamprune.ops.projections import heads_of

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": "eager",
}


@pytest.mark.parametrize(
    ("module", "config", "name"),
    [
        (modeling_qwen2, Qwen2Config, "Qwen2Attention"),
        (modeling_qwen3, Qwen3Config, "Qwen3Attention"),
        (modeling_qwen3_5, Qwen3_5TextConfig, "Qwen3_5Attention"),
    ],
    ids=["plain", "normalised", "gated"],
)
@torch.no_grad()
def test_queries_and_keys_are_those_of_the_layer(
    module: Any, config: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    attention = getattr(module, name)(config(**SIZES), layer_idx=0)
    for weight in attention.parameters():
        weight.normal_(std=0.5)
    states, caught = torch.randn(1, 5, 32), []
    stock = module.apply_rotary_pos_emb

    def spy(queries: torch.Tensor, keys: torch.Tensor, *tables: torch.Tensor) -> Any:
        caught.extend([queries, keys])
        return stock(queries, keys, *tables)

    monkeypatch.setattr(module, "apply_rotary_pos_emb", spy)
    attention(states, (torch.ones(1, 5, 8), torch.zeros(1, 5, 8)), None)
    for which, expected in zip("qk", caught, strict=True):
        found = heads_of(attention, which, states)
        torch.testing.assert_close(found.transpose(1, 2), expected, rtol=0, atol=1e-6)
