"""A Qwen2 small enough to run in milliseconds, with weights that attend sharply."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

VOCABULARY = 101
GROUP = 2


def make_model(
    implementation: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    layers: int = 2,
    key_value_heads: int = 4 // GROUP,
) -> Any:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=512,
        initializer_range=0.25,
        eos_token_id=None,
        pad_token_id=0,
    )
    config._attn_implementation = implementation
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval().to(dtype)


def prompt(tokens: int = 40, *, rows: int = 1, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY - 1, (rows, tokens), generator=generator)


def left_padded(ids: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([ids.new_zeros(len(ids), length - ids.shape[1]), ids], 1)


@contextmanager
def seeing_only(model: Any, held: list[torch.Tensor], seen: int) -> Iterator[None]:
    """Let layer i of a model with a full cache see, of the first ``seen`` tokens, only ``held[i]``.

    ``held[i]`` is (rows, heads, entries) of token numbers.
    """

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tokens = held[module.layer_idx].long()
        new = kwargs["hidden_states"].shape[1]
        old = torch.zeros(*tokens.shape[:2], seen, dtype=torch.bool).scatter_(-1, tokens, True)
        own = torch.ones(new, new, dtype=torch.bool).tril()
        mask = torch.cat([old[:, :, None].expand(-1, -1, new, -1), own.expand(*tokens.shape[:2], -1, -1)], -1)
        mask = mask.repeat_interleave(GROUP, 1)
        if module.config._attn_implementation == "eager":
            mask = torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -torch.inf)
        return args, {**kwargs, "attention_mask": mask}

    hooks = [
        layer.self_attn.register_forward_pre_hook(before, with_kwargs=True) for layer in model.model.layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def full_cache(model: Any) -> Any:
    return DynamicCache(config=model.config)
