"""A LLaVA-NeXT-Video small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from tests.models.small_llava import WORDS
from tests.models.small_qwen import sharpen

SPECIALS = ["<pad>", "<unk>", "USER:", "</s>", "<video>", "<image>"]
TEMPLATE = (
    "{% for m in messages %}USER: {% for p in m['content'] %}"
    "{% if p['type'] == 'video' %}<video> {% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
SETTINGS = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "resample": 3,
}


def save_small_llava_next(folder: Path) -> Path:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["USER:", "<video>", "<image>"]})
    fast.chat_template = TEMPLATE
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=32,
        patch_size=4,
        projection_dim=16,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=3,
        pad_token_id=0,
        bos_token_id=2,
    )
    config = LlavaNextVideoConfig(
        vision_config=vision, text_config=text, video_token_index=4, image_token_index=5
    )
    torch.manual_seed(14)
    model = LlavaNextVideoForConditionalGeneration(config).eval()
    sharpen(model)
    with torch.no_grad():
        # an answer that ends at once, or says nothing, would leave nothing to compare
        model.lm_head.weight[: len(SPECIALS)] = 0
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return folder
