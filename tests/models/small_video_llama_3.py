"""A VideoLLaMA3 small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, VideoLlama3Config, VideoLlama3ForConditionalGeneration

from tests.models.small_llava import WORDS
from tests.models.small_qwen import PATCH, SIDE, sharpen

SPECIALS = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|video_pad|>", "<|image_pad|>"]
LABELS = ["Time", "s", ":", ",", ".", *map(str, range(20)), "0s"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {% for p in m['content'] %}"
    "{% if p['type'] == 'video' %}<|video_pad|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
# pixels of a frame at least, of a clip at most
SETTINGS: dict[str, Any] = {"size": {"shortest_edge": 4 * SIDE**2, "longest_edge": 400 * SIDE**2}}


def save_small_video_llama_3(folder: Path, **settings: Any) -> Path:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, *LABELS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *SPECIALS[4:]]})
    fast.chat_template = TEMPLATE
    config = VideoLlama3Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(vocabulary),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 30.0},
            "eos_token_id": 3,
            "pad_token_id": 0,
            "bos_token_id": 2,
        },
        image_token_id=SPECIALS.index("<|image_pad|>"),
        video_token_id=SPECIALS.index("<|video_pad|>"),
    )
    torch.manual_seed(16)
    model = VideoLlama3ForConditionalGeneration(config).eval()
    sharpen(model)
    with torch.no_grad():
        # an answer that ends at once, or says nothing, would leave nothing to compare
        model.lm_head.weight[: len(SPECIALS)] = 0
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps({**SETTINGS, **settings}))
    return folder
