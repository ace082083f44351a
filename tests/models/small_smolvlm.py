"""A SmolVLM small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

from tests.models.small_llava import WORDS
from tests.models.small_qwen import sharpen

MARKS = ["<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
SPECIALS = ["<pad>", "<unk>", "<|im_start|>", "<end>", *MARKS]
LABELS = [":", "User", "Assistant", "You", "are", "provided", "following", "series", "of", "five", "frames"]
LABELS += ["from", "a", "video", ".", "[", "]", "H", "MM", "SS", "Frame", "0"]
LABELS += [f"{number:02d}" for number in range(60)]
SETTINGS = {"size": {"longest_edge": 60}, "max_image_size": {"longest_edge": 32}}


def save_small_smolvlm(folder: Path) -> Path:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS, *LABELS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<end>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *MARKS]})
    # of the checkpoints, and not used for videos
    fast.chat_template = "{% for m in messages %}<image>{% endfor %}"
    config = SmolVLMConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(vocabulary),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "eos_token_id": 3,
            "pad_token_id": 0,
            "bos_token_id": 2,
        },
        image_token_id=SPECIALS.index("<image>"),
        scale_factor=2,
    )
    torch.manual_seed(15)
    model = SmolVLMForConditionalGeneration(config).eval()
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
