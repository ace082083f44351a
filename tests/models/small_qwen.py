"""Qwen-VL models small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.models.small_llava import WORDS

FAMILIES = ("qwen2_5_omni", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl")
# whose prompts have the time before every slice, and whose settings count the pixels of a whole clip
TIMED = ("qwen3_5", "qwen3_vl")
# most of whose blocks attend within windows
WINDOWS = ("qwen2_5_omni", "qwen2_5_vl")
VISION = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
SPECIALS = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", *VISION]
LABELS = ["<", ">", ".", "seconds", "system", *map(str, range(100))]
TEMPLATE = (
    "<|im_start|> system {% for m in messages %}<|im_start|> {{ m['role'] }} {% for p in m['content'] %}"
    "{% if p['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ p['text'] }}"
    "{% endif %}{% endfor %} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
PATCH, SIDE = 4, 8  # pixels along a patch, along a token
# where the folder does not say how many pixels are shown, patches are large to have few of them
_LARGE_PATCH = {"qwen2_5_omni": 28}
# pixels of a frame, of eight frames in the family that counts the whole clip's
SETTINGS: dict[str, Any] = {"size": {"shortest_edge": 4 * SIDE**2, "longest_edge": 24 * SIDE**2}}
CLIP_SETTINGS: dict[str, Any] = {"size": {"shortest_edge": 32 * SIDE**2, "longest_edge": 192 * SIDE**2}}


def patch_of(model_type: str) -> int:
    """Pixels along a patch."""
    return _LARGE_PATCH.get(model_type, PATCH)


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, *LABELS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *VISION]})
    fast.chat_template = TEMPLATE
    return fast


def _text(sections: list[int], context_tokens: int) -> dict[str, Any]:
    return {
        "vocab_size": len(SPECIALS) + len(WORDS) + len(LABELS),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": context_tokens,
        "rope_parameters": {"rope_type": "default", "rope_theta": 30.0, "mrope_section": sections},
        "eos_token_id": 3,
        "pad_token_id": 0,
        "bos_token_id": 2,
    }


def text_of_qwen3_5(context_tokens: int, layer_types: Sequence[str] | None) -> dict[str, Any]:
    """Three recurrent layers and one that attends, unless said otherwise; half of a head is rotated."""
    text = _text([2, 1, 1], context_tokens)
    text["rope_parameters"]["partial_rotary_factor"] = 0.5
    text |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "layer_types": layer_types}
    return {**text, "linear_num_key_heads": 2, "linear_num_value_heads": 4}


def make_model(model_type: str, context_tokens: int = 512, layer_types: Sequence[str] | None = None) -> Any:
    ids = {
        name: SPECIALS.index(f"<|{token}|>")
        for name, token in (
            ("vision_start_token_id", "vision_start"),
            ("vision_end_token_id", "vision_end"),
            ("image_token_id", "image_pad"),
            ("video_token_id", "video_pad"),
        )
    }
    shared = {"depth": 4, "num_heads": 4, "patch_size": patch_of(model_type), "spatial_merge_size": 2}
    shared["temporal_patch_size"] = 2
    text = _text([4, 2, 2] if model_type == "qwen3_vl" else [2, 3, 3], context_tokens)
    if model_type in WINDOWS:
        vision = {
            **shared,
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "window_size": 4 * patch_of(model_type),
            "fullatt_block_indexes": [1, 3],
        }
        if model_type == "qwen2_5_omni":
            return _omni(vision, text, ids)
        vision["tokens_per_second"] = 2
        config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False, **ids)
        return Qwen2_5_VLForConditionalGeneration(config)
    if model_type == "qwen2_vl":
        vision = {**shared, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        config = Qwen2VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False, **ids)
        return Qwen2VLForConditionalGeneration(config)
    vision = {
        **shared,
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "num_position_embeddings": 36,
    }
    if model_type == "qwen3_5":
        text = text_of_qwen3_5(context_tokens, layer_types)
        config = Qwen3_5Config(vision_config=vision, text_config=text, tie_word_embeddings=False, **ids)
        return Qwen3_5ForConditionalGeneration(config)
    vision["deepstack_visual_indexes"] = [0, 1, 2]
    config = Qwen3VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False, **ids)
    return Qwen3VLForConditionalGeneration(config)


def _omni(vision: dict[str, Any], text: dict[str, Any], ids: dict[str, int]) -> Any:
    """A whole model without its voice, whose hearing is as small as can be."""
    hearing = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    hearing |= {"num_mel_bins": 8, "max_source_positions": 20, "n_window": 4, "output_dim": 64}
    thinker = {
        "vision_config": vision,
        "text_config": text,
        "audio_config": hearing,
        "position_id_per_seconds": 4,
        "audio_start_token_id": text["vocab_size"] - 1,
        "audio_token_index": text["vocab_size"] - 1,
        "image_token_index": ids["image_token_id"],
        "video_token_index": ids["video_token_id"],
        "vision_start_token_id": ids["vision_start_token_id"],
    }
    config = Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    return Qwen2_5OmniForConditionalGeneration(config)


def cut(pixels: torch.Tensor, slice_frames: int = 2, patch: int = PATCH) -> torch.Tensor:
    """Patch rows, one by one: slice, token row, token column, patch row, patch column."""
    side = 2 * patch
    rows, cols = pixels.shape[2] // side, pixels.shape[3] // side
    found = []
    for start, y, x, dy, dx in product(
        range(0, len(pixels), slice_frames), range(rows), range(cols), range(2), range(2)
    ):
        top, left = side * y + patch * dy, side * x + patch * dx
        square = pixels[start : start + slice_frames, :, top : top + patch, left : left + patch]
        found.append(square.transpose(0, 1).reshape(-1))
    return torch.stack(found)


def sharpen(model: torch.nn.Module) -> None:
    """Random weights attend to everything alike; larger queries and keys make them look somewhere."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "qkv.weight")):
                weight.normal_(std=1.5 / weight.shape[1] ** 0.5)
            elif name.endswith("weight") and weight.ndim >= 2:
                weight.normal_(std=1.0 / weight[0].numel() ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
            elif name.startswith("model.language_model") and name.endswith(
                ("q_norm.weight", "k_norm.weight")
            ):
                weight.add_(1.0)


def save_small_qwen(
    folder: Path,
    model_type: str,
    *,
    context_tokens: int = 512,
    layer_types: Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    torch.manual_seed(12)
    model = make_model(model_type, context_tokens, layer_types).eval()
    sharpen(model)
    speaking = model.thinker if model_type == "qwen2_5_omni" else model
    # an answer that ends at once, or says nothing, would leave nothing to compare
    with torch.no_grad():
        speaking.lm_head.weight[: len(SPECIALS)] = 0
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    own = CLIP_SETTINGS if model_type in TIMED else SETTINGS
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**own, **settings}))
    return folder
