from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from streamprune.errors import InvalidValueError
from streamprune.metrics.flops import DecoderShape

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_a_seven_billion_model_matches_its_published_count() -> None:
    """FastVID (arXiv 2503.11187) gives 48.82 T multiply-adds for 32 frames x 196 tokens, over all pairs."""
    shape = DecoderShape(
        layers=28, width=3584, query_width=3584, key_value_width=512, inner_width=18944, vocabulary=152_064
    )
    tokens = 32 * 196
    all_pairs = shape.prefill_flops(tokens) + 28 * 4 * 3584 * (tokens * (tokens - 1) // 2)
    assert all_pairs / 2 / 1e12 == pytest.approx(48.82, rel=0.01)


@pytest.mark.parametrize("tokens", [1, 7, 64])
def test_prefill_equals_counting_the_real_model(tokens: int) -> None:
    """torch's counter, with eager attention, sees every pair; ours counts only those that are attended."""
    model = Qwen2ForCausalLM(Qwen2Config(**SMALL, attn_implementation="eager")).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, tokens, dtype=torch.long), logits_to_keep=1)
    shape = DecoderShape.from_config(model.config)
    unseen_pairs = tokens * (tokens - 1) // 2
    assert counter.get_total_flops() == shape.prefill_flops(tokens) + 3 * 4 * 32 * unseen_pairs


def test_decoding_equals_the_difference_of_prefills_but_for_the_head() -> None:
    shape = DecoderShape.from_config(Qwen2Config(**SMALL))
    head = 2 * 32 * 40
    for new_tokens in (1, 2, 9):
        longer = shape.prefill_flops(50 + new_tokens - 1) - shape.prefill_flops(50)
        assert shape.decode_flops(50, new_tokens) == longer + (new_tokens - 1) * head
    assert shape.decode_flops(50, 0) == 0


def test_negative_counts_are_refused() -> None:
    shape = DecoderShape.from_config(Qwen2Config(**SMALL))
    with pytest.raises(InvalidValueError, match="prompt_tokens must be 0 or more"):
        shape.prefill_flops(-1)
    with pytest.raises(InvalidValueError, match="new_tokens must be 0 or more"):
        shape.decode_flops(1, -1)


def test_layers_may_see_different_numbers_of_tokens() -> None:
    shape = DecoderShape.from_config(Qwen2Config(**SMALL))
    assert shape.prefill_flops((9, 9, 9)) == shape.prefill_flops(9)
    assert shape.decode_flops((9, 9, 9), 4) == shape.decode_flops(9, 4)
    whole = 10 + 11 + 12
    assert shape.decode_flops(9, 4, {0: whole, 2: whole}) == shape.decode_flops(9, 4)
    fewer = shape.decode_flops(9, 4) - shape.decode_flops(9, 4, {1: whole - 7})
    assert fewer == 7 * 4 * shape.query_width
    thirds = [shape.prefill_flops(n) - shape.prefill_flops(0) for n in (9, 5, 2)]
    assert 3 * (shape.prefill_flops((9, 5, 2)) - shape.prefill_flops(0)) == sum(thirds)
    with pytest.raises(InvalidValueError, match="one for each of 3 layers, got 2"):
        shape.prefill_flops((9, 9))
