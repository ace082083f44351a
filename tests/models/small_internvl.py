"""An InternVL small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import InternVLConfig, InternVLForConditionalGeneration, PreTrainedTokenizerFast

from tests.models.small_llava import WORDS
from tests.models.small_qwen import sharpen

MARKS = ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"]
SPECIALS = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", *MARKS]
LABELS = [":", *(f"Frame{number}" for number in range(40))]
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {% for p in m['content'] %}"
    "{% if p['type'] == 'video' %}<video>\n{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    " <|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
SETTINGS = {"size": {"height": 32, "width": 32}, "do_center_crop": None, "crop_size": None}


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, *LABELS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *MARKS]})
    fast.chat_template = TEMPLATE
    return fast


def save_small_internvl(folder: Path, *, context_tokens: int = 512) -> Path:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
            "use_qk_norm": True,
            "layer_scale_init_value": 1.0,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(SPECIALS) + len(WORDS) + len(LABELS),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": context_tokens,
            "eos_token_id": 3,
            "pad_token_id": 0,
            "bos_token_id": 2,
        },
        image_token_id=SPECIALS.index("<IMG_CONTEXT>"),
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    torch.manual_seed(13)
    model = InternVLForConditionalGeneration(config).eval()
    sharpen(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("cls_token", "position_embeddings")):
                weight.normal_(std=0.5)
        # an answer that ends at once, or says nothing, would leave nothing to compare
        model.lm_head.weight[: len(SPECIALS)] = 0
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return folder
