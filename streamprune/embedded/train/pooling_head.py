"""A SigLIP pooling head for the embedded tower: one feature per frame, and how salient each token is."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead


class PoolingHead(nn.Module):
    """``head(post_layernorm(tower output))`` of a stock SigLIP, with SigLIP's own parameter names."""

    def __init__(self, config: SiglipVisionConfig) -> None:
        super().__init__()
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = SiglipMultiheadAttentionPoolingHead(config)

    def forward(self, patches: Tensor) -> Tensor:
        """Pool patch features (frames, 144, 128) to one feature per frame (frames, 128)."""
        pooled: Tensor = self.head(self.post_layernorm(patches))
        return pooled

    def saliency(self, patches: Tensor) -> Tensor:
        """Attention of the probe on each token, mean over heads, pooled 2 x 2: (frames, 36)."""
        normed = self.post_layernorm(patches)
        probe = self.head.probe.expand(len(normed), -1, -1)
        weights = self.head.attention(probe, normed, normed, average_attn_weights=True)[1]
        grid = weights.reshape(len(normed), 1, 12, 12)
        pooled: Tensor = nn.functional.interpolate(grid, size=(6, 6), mode="bilinear").reshape(
            len(normed), -1
        )
        return pooled


def save_head(folder: Path, head: PoolingHead) -> None:
    """Write the pooling head as ``pooling_head.safetensors`` (SigLIP's parameter names)."""
    state = {name: value.detach().float().contiguous() for name, value in head.state_dict().items()}
    save_file(state, folder / "pooling_head.safetensors", metadata={"format": "pt"})


def load_head(folder: Path, head: PoolingHead) -> PoolingHead:
    """Fill ``head`` with what ``save_head`` wrote."""
    head.load_state_dict(load_file(folder / "pooling_head.safetensors"))
    return head.eval()
