"""A MiniCPM-V small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration, PreTrainedTokenizerFast

from tests.models.small_llava import WORDS
from tests.models.small_qwen import sharpen, text_of_qwen3_5

TAGS = ["<image>", "</image>", "<image_id>", "</image_id>"]
SPECIALS = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|video_pad|>", "<|image_pad|>", *TAGS]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {% for p in m['content'] %}"
    "{% if p['type'] == 'video' %}<|video_pad|>{% else %}{{ p['text'] }}{% endif %}{% endfor %}<|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
SETTINGS: dict[str, Any] = {"scale_resolution": 64, "slice_mode": False}


def save_small_minicpm(folder: Path, *, layer_types: Sequence[str] | None = None, **settings: Any) -> Path:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, "0"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *SPECIALS[4:]]})
    fast.chat_template = TEMPLATE
    text = text_of_qwen3_5(512, layer_types)
    config = MiniCPMV4_6Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 4,
        },
        text_config={**text, "model_type": "qwen3_5_text", "vocab_size": len(vocabulary)},
        insert_layer_id=1,
        image_token_id=SPECIALS.index("<|image_pad|>"),
        video_token_id=SPECIALS.index("<|video_pad|>"),
    )
    torch.manual_seed(17)
    model = MiniCPMV4_6ForConditionalGeneration(config).eval()
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
