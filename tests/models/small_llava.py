"""A LLaVA-OneVision small enough to run in milliseconds, with weights sharp enough that positions matter."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

SPECIALS = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
WORDS = [
    "user",
    "assistant",
    "what",
    "colour",
    "is",
    "the",
    "big",
    "small",
    "red",
    "blue",
    "circle",
    "square",
]
WORDS += ["where", "left", "right", "moving", "?"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m['role'] }} {% for p in m['content'] %}"
    "{% if p['type'] == 'video' %}<video> {% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    " <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant{% endif %}"
)
SETTINGS = """{"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 28, "width": 28},
 "resample": 3, "do_resize": true, "do_rescale": true, "do_normalize": true,
 "rescale_factor": 0.00392156862745098,
 "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"""


def make_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIALS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<image>", "<video>"]})
    fast.chat_template = TEMPLATE
    return fast


def make_config(context_tokens: int = 512) -> LlavaOnevisionConfig:
    """7 x 7 patches a frame, pooled to 4 x 4: an odd side, so that pooling shows its rounding."""
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=28,
        patch_size=4,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=len(SPECIALS) + len(WORDS),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=False,
        eos_token_id=3,
        pad_token_id=0,
        bos_token_id=2,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=4,
        video_token_index=5,
        image_grid_pinpoints=[[28, 28]],
    )


def sharpen(model: torch.nn.Module) -> None:
    """Random weights attend to everything alike; larger queries and keys make them look somewhere."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.normal_(std=1.5 / weight.shape[1] ** 0.5)
            elif name.endswith("weight") and weight.ndim == 2:
                weight.normal_(std=1.0 / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)


def make_head(width: int = 32, inner: int = 48) -> dict[str, torch.Tensor]:
    generator, scale = torch.Generator().manual_seed(5), math.sqrt(1 / width)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    return {
        "post_layernorm.weight": 1 + random(width),
        "post_layernorm.bias": random(width),
        "head.probe": 8 * random(1, 1, width),
        "head.attention.in_proj_weight": 2 * random(3 * width, width),
        "head.attention.in_proj_bias": random(3 * width),
        "head.attention.out_proj.weight": random(width, width),
        "head.attention.out_proj.bias": random(width),
        "head.layernorm.weight": 1 + random(width),
        "head.layernorm.bias": random(width),
        "head.mlp.fc1.weight": random(inner, width),
        "head.mlp.fc1.bias": random(inner),
        "head.mlp.fc2.weight": random(width, inner),
        "head.mlp.fc2.bias": random(width),
    }


def save_small_llava(folder: Path, *, context_tokens: int = 512, head: bool = True) -> Path:
    torch.manual_seed(11)
    model = LlavaOnevisionForConditionalGeneration(make_config(context_tokens)).eval()
    sharpen(model)
    # an answer that ends at once would leave nothing to compare
    with torch.no_grad():
        model.lm_head.weight[3] = 0
    model.generation_config.eos_token_id = 3
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(SETTINGS)
    if head:
        save_file(make_head(), folder / "pooling_head.safetensors")
    return folder
