from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from streamprune.errors import ModelWeightsError
from streamprune.models.siglip_head import PoolingHead, find_head_tensors

CONFIG = SiglipVisionConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=1)


def stock_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    tensors = {f"head.{k}": v for k, v in SiglipMultiheadAttentionPoolingHead(CONFIG).state_dict().items()}
    tensors["post_layernorm.weight"], tensors["post_layernorm.bias"] = 1 + torch.randn(32), torch.randn(32)
    return {name: value + 0.2 * torch.randn(value.shape) for name, value in tensors.items()}


def test_pools_as_the_stock_head_does() -> None:
    tensors, states = stock_tensors(), torch.randn(3, 49, 32)
    stock = SiglipMultiheadAttentionPoolingHead(CONFIG).eval()
    stock.load_state_dict({k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")})
    weight, bias = tensors["post_layernorm.weight"], tensors["post_layernorm.bias"]
    normed = nn.functional.layer_norm(states, (32,), weight, bias, CONFIG.layer_norm_eps)
    with torch.no_grad():
        _, pooled = PoolingHead.from_tensors(tensors, CONFIG)(states)
        expected = stock(normed)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_attention_is_the_mean_over_heads_of_the_probe_softmax() -> None:
    tensors, states = stock_tensors(), torch.randn(2, 9, 32)
    attention, _ = PoolingHead.from_tensors(tensors, CONFIG)(states)
    weight, bias = tensors["post_layernorm.weight"], tensors["post_layernorm.bias"]
    normed = nn.functional.layer_norm(states, (32,), weight, bias, CONFIG.layer_norm_eps)
    in_weight, in_bias = tensors["head.attention.in_proj_weight"], tensors["head.attention.in_proj_bias"]
    query = (tensors["head.probe"][0, 0] @ in_weight[:32].T + in_bias[:32]).reshape(4, 8)
    keys = (normed @ in_weight[32:64].T + in_bias[32:64]).reshape(2, 9, 4, 8)
    expected = torch.einsum("hd,fphd->fhp", query, keys).div(8**0.5).softmax(-1).mean(1)
    torch.testing.assert_close(attention, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2))


@pytest.mark.parametrize("prefix", ["", "vision_model.", "vision_tower."])
def test_tensors_are_found_under_a_prefix(prefix: str) -> None:
    names = [prefix + name for name in stock_tensors()]
    found = find_head_tensors([*names, "something.else"])
    assert sorted(found.values()) == sorted(names)
    assert find_head_tensors(names[1:]) == {}


def test_a_head_of_another_width_is_refused() -> None:
    wide = SiglipVisionConfig(
        hidden_size=64, intermediate_size=48, num_attention_heads=4, num_hidden_layers=1
    )
    with pytest.raises(ModelWeightsError, match="width 64"):
        PoolingHead.from_tensors(stock_tensors(), wide)
