"""Qwen-VL folders of a megabyte with random weights, of widths that vLLM's attention takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.models.small_qwen import SPECIALS, make_tokenizer, sharpen

PATCH, MERGE, SLICE = 14, 2, 2  # pixels along a patch, patches along a token, frames of a token
TOKENS_PER_SECOND = 2
WIDTH = 128  # channels of a token in the language model
LEVELS = 2  # layers of Qwen3-VL's tower whose rows join deeper layers of the language model


def save_tiny_model(folder: Path, family: str) -> Path:
    """Write a whole checkpoint of ``family``: qwen2_5_vl or qwen3_vl."""
    torch.manual_seed(7)
    model = (_qwen2_5_vl() if family == "qwen2_5_vl" else _qwen3_vl()).eval()
    sharpen(model)
    model.generation_config.eos_token_id = SPECIALS.index("<|im_end|>")
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    shown: dict[str, Any] = {
        "patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": SLICE, "do_sample_frames": False,
        "size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 10**7},
        "processor_class": "Qwen2_5_VLProcessor" if family == "qwen2_5_vl" else "Qwen3VLProcessor",
    }  # fmt: skip
    video = "Qwen2VLVideoProcessor" if family == "qwen2_5_vl" else "Qwen3VLVideoProcessor"
    for name, kind in (
        ("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor"}),
        ("video_preprocessor_config.json", {"video_processor_type": video}),
    ):
        (folder / name).write_text(json.dumps({**shown, **kind}))
    return folder


def _ids() -> dict[str, int]:
    return {
        "vision_start_token_id": SPECIALS.index("<|vision_start|>"),
        "vision_end_token_id": SPECIALS.index("<|vision_end|>"),
        "image_token_id": SPECIALS.index("<|image_pad|>"),
        "video_token_id": SPECIALS.index("<|video_pad|>"),
    }


def _text(**rope: Any) -> dict[str, Any]:
    sections = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    return {
        "vocab_size": len(make_tokenizer()), "hidden_size": WIDTH, "intermediate_size": 96,
        "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64,
        "max_position_embeddings": 4096, "rope_parameters": {**sections, **rope},
        "eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2,
    }  # fmt: skip


def _vision(**own: Any) -> dict[str, Any]:
    shared = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": SLICE}
    widths = {"depth": 2, "num_heads": 2, "hidden_size": WIDTH, "intermediate_size": 96}
    return {**shared, **widths, "out_hidden_size": WIDTH, **own}


def _qwen2_5_vl() -> Any:
    vision = _vision(window_size=112, fullatt_block_indexes=[1], tokens_per_second=TOKENS_PER_SECOND)
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=_text(), vision_config=vision, tie_word_embeddings=False, **_ids())
    )


def _qwen3_vl() -> Any:
    vision = _vision(num_position_embeddings=144, deepstack_visual_indexes=list(range(LEVELS)))
    text = _text(mrope_interleaved=True)
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **_ids())
    )
