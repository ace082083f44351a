"""The first embedded model: a stock LLaVA-OneVision, very small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from streamprune.embedded.train.architecture import (
    TOKENS_PER_SLICE,
    Architecture,
    generation_config,
    with_placeholders,
)
from streamprune.embedded.train.packing import Frame, encode
from streamprune.embedded.train.pooling_head import PoolingHead
from streamprune.embedded.train.tokenizer import (
    END,
    IMAGE,
    PAD,
    START,
    VIDEO,
    build_tokenizer,
    vocabulary_size,
)
from streamprune.embedded.world.draw import FRAME_SIDE


def vision_config() -> SiglipVisionConfig:
    """The tower: 144 patches of 8 x 8 pixels, four layers of 128."""
    return SiglipVisionConfig(
        image_size=FRAME_SIDE,
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
        image_grid_pinpoints=[[FRAME_SIDE, FRAME_SIDE]],
        vision_aspect_ratio="anyres_max_1",
        tie_word_embeddings=True,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=PAD,
    )


class LlavaOnevision(Architecture):
    """Every frame is a slice; positions count tokens; a newline token ends the video."""

    model_type = "llava_onevision"
    slice_frames = 1
    axes = 1
    frame = Frame((START, encode("user")[0]), ())
    tower = ("model.model.vision_tower.",)
    projector = ("model.model.multi_modal_projector.",)
    placed_by_tower = True
    renumber_share = 0.05
    uneven_times = True
    stretches = (1,)

    def build(self) -> LlavaOnevisionForConditionalGeneration:
        """Eager attention in the tower: on a CPU twice as fast as sdpa in training at this size."""
        model = LlavaOnevisionForConditionalGeneration(model_config())
        model.generation_config = generation_config()
        return model

    def pooling_head(self) -> PoolingHead:
        """It gives the signals ``saliency`` and ``frame_features``."""
        return PoolingHead(vision_config())

    def patches(self, model: Any, frames: Tensor) -> Tensor:
        """What the model itself takes from the tower: the last layer's output, (frames, 144, 128)."""
        tower = model.model.vision_tower
        features: Tensor = tower.encoder(inputs_embeds=tower.embeddings(frames)).last_hidden_state
        return features

    def tokens(self, model: Any, patches: Tensor) -> Tensor:
        """Projected, then pooled 2 x 2, (frames, 36, 192)."""
        tokens: Tensor = model.model.apply_pooling(model.model.multi_modal_projector(patches))
        return tokens

    def columns(self, model: Any, visual: Tensor) -> Tensor:
        """The tokens and the newline."""
        newline = model.model.image_newline.expand(len(visual), 1, -1).to(visual.dtype)
        return torch.cat([visual, newline], 1)

    def positions(self, slots: Sequence[int], kept: NDArray[np.int64], renumber: bool) -> NDArray[np.int64]:
        """Positions of kept tokens and of the newline."""
        first = len(self.frame.opening)
        if renumber:
            return np.arange(first, first + len(kept) + 1)[None]
        start = np.asarray(slots, np.int64) * TOKENS_PER_SLICE + first
        places = start[kept // TOKENS_PER_SLICE] + kept % TOKENS_PER_SLICE
        return np.append(places, start[-1] + TOKENS_PER_SLICE)[None]

    def text_start(self, positions: NDArray[np.int64], renumber: bool) -> int:
        """Right behind the newline."""
        return int(positions[0, -1]) + 1

    def stock_inputs(self, ids: Sequence[int], frames: Tensor) -> dict[str, Tensor]:
        """A placeholder for every token and the newline, and the pixels."""
        row = with_placeholders(ids, len(frames) * TOKENS_PER_SLICE + 1)
        return {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "pixel_values_videos": frames[None],
        }

    def save_model(self, folder: Path, model: Any) -> None:
        """As trained, in float32."""
        model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)

    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings of the stock image processor, video processor and processor."""
        pixels = {
            "do_resize": True,
            "size": {"height": FRAME_SIDE, "width": FRAME_SIDE},
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
            "video_preprocessor_config.json": pixels
            | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
            "processor_config.json": {
                "processor_class": "LlavaOnevisionProcessor",
                "num_image_tokens": TOKENS_PER_SLICE,
                "vision_feature_select_strategy": "full",
                "vision_aspect_ratio": "anyres_max_1",
                "image_token": "<image>",
                "video_token": "<video>",
            },
        }
