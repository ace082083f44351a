"""Build the embedded model (a stock LLaVA-OneVision, very small), its pooling head, and save both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from streamprune.embedded.train.tokenizer import (
    END,
    IMAGE,
    PAD,
    START,
    VIDEO,
    build_tokenizer,
    vocabulary_size,
)

TOKENS_PER_FRAME = 36
IMAGE_SIDE = 96


def vision_config() -> SiglipVisionConfig:
    """The tower: 144 patches of 8 x 8 pixels, four layers of 128."""
    return SiglipVisionConfig(
        image_size=IMAGE_SIDE,
        patch_size=8,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        vision_use_head=False,
    )


def model_config() -> LlavaOnevisionConfig:
    """The whole model: tower, two-layer projector, four Qwen2 layers of 192."""
    text = Qwen2Config(
        vocab_size=vocabulary_size(),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        rope_theta=10000.0,
        tie_word_embeddings=True,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlavaOnevisionConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[IMAGE_SIDE, IMAGE_SIDE]],
        vision_aspect_ratio="anyres_max_1",
        tie_word_embeddings=True,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )


class PoolingHead(nn.Module):
    """``head(post_layernorm(tower output))`` of a stock SigLIP, with SigLIP's own parameter names."""

    def __init__(self) -> None:
        super().__init__()
        config = vision_config()
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


def build_model() -> LlavaOnevisionForConditionalGeneration:
    """Build the model with random weights from the global torch generator."""
    model = LlavaOnevisionForConditionalGeneration(model_config())
    model.generation_config = GenerationConfig(
        bos_token_id=START, eos_token_id=END, pad_token_id=PAD, do_sample=False, max_new_tokens=16
    )
    return model


def _processor_files() -> dict[str, dict[str, Any]]:
    size = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    pixels = {
        "do_resize": True,
        "size": size,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    image = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": [[96, 96]],
        "do_pad": True,
    }
    return {
        "preprocessor_config.json": pixels | image,
        "video_preprocessor_config.json": pixels | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
        "processor_config.json": {
            "processor_class": "LlavaOnevisionProcessor",
            "num_image_tokens": TOKENS_PER_FRAME,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_1",
            "image_token": "<image>",
            "video_token": "<video>",
        },
    }


def save_folder(folder: Path, model: LlavaOnevisionForConditionalGeneration, head: PoolingHead) -> None:
    """Write model, tokenizer, processor files and pooling head as one folder for ``from_pretrained``."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    for name, content in _processor_files().items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    save_head(folder, head)


def save_head(folder: Path, head: PoolingHead) -> None:
    """Write the pooling head as ``pooling_head.safetensors`` (SigLIP's parameter names)."""
    state = {name: value.detach().float().contiguous() for name, value in head.state_dict().items()}
    save_file(state, folder / "pooling_head.safetensors", metadata={"format": "pt"})


def load_head(folder: Path) -> PoolingHead:
    """Read the pooling head that ``save_head`` wrote."""
    head = PoolingHead()
    head.load_state_dict(load_file(folder / "pooling_head.safetensors"))
    return head.eval()
