"""The attention-pooling head of SigLIP: which patches a picture is summed up by, and the sum.

LLaVA checkpoints leave this head out; it comes from a file beside the weights, or from any SigLIP
checkpoint of the same width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from streamprune.errors import ModelWeightsError

# stock names, as in a SigLIP vision model
_NAMES = (
    "post_layernorm.weight",
    "post_layernorm.bias",
    "head.probe",
    "head.attention.in_proj_weight",
    "head.attention.in_proj_bias",
    "head.attention.out_proj.weight",
    "head.attention.out_proj.bias",
    "head.layernorm.weight",
    "head.layernorm.bias",
    "head.mlp.fc1.weight",
    "head.mlp.fc1.bias",
    "head.mlp.fc2.weight",
    "head.mlp.fc2.bias",
)
_PREFIXES = ("", "vision_model.", "vision_tower.", "vision_tower.vision_model.", "model.vision_tower.")


def find_head_tensors(names: list[str]) -> dict[str, str]:
    """Map the head's stock names to those of a file that holds them under a known prefix; {} for others."""
    have = set(names)
    for prefix in _PREFIXES:
        if have.issuperset(prefix + name for name in _NAMES):
            return {name: prefix + name for name in _NAMES}
    return {}


class _FeedForward(nn.Module):
    def __init__(self, config: Any) -> None:
        from transformers.activations import ACT2FN

        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc2(self.activation(self.fc1(states)))
        return out


class _Head(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = _FeedForward(config)


class PoolingHead(nn.Module):
    """One learnt query that attends to a frame's patches.

    Args:
        config: a SigLIP vision configuration (width, heads, activation, epsilon).

    Source: the pooling head of SigLIP (arXiv 2303.15343); its use as a saliency on the features of a tower
    that was trained without it is FastVID's (arXiv 2503.11187).
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = _Head(config)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], config: Any) -> PoolingHead:
        """Fill a head with ``tensors`` under stock names; ModelWeightsError when they do not fit."""
        head = cls(config)
        try:
            head.load_state_dict({name: tensors[name].float() for name in _NAMES})
        except (KeyError, RuntimeError) as error:
            raise ModelWeightsError(
                f"the pooling head does not fit this vision tower (width {config.hidden_size}, "
                f"{config.intermediate_size} in between): {error}"
            ) from error
        return head.eval().requires_grad_(False)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool the tower's states before its last norm.

        Args:
            states: (frames, patches, width), any floating dtype; computed in float32.

        Returns:
            the query's attention to every patch, averaged over heads, (frames, patches), rows sum to 1; and
            the pooled feature of every frame, (frames, width).
        """
        states = self.post_layernorm(states.float())
        head = self.head
        probe = head.probe.expand(len(states), -1, -1)
        pooled, attention = head.attention(probe, states, states, need_weights=True)
        pooled = pooled + head.mlp(head.layernorm(pooled))
        return attention[:, 0], pooled[:, 0]
