"""LLaVA-OneVision models of any size with random weights, for measuring speed where no weights are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.errors import UnknownNameError
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.checkpoint_files import embedded_folder, read_video_settings
from streamprune.models.devices import choose_device, choose_dtype
from streamprune.models.families import family_class
from streamprune.models.torchvision_guard import hide_broken_torchvision


@dataclass(frozen=True)
class LLMSize:
    """The sizes of a Qwen2 language model."""

    layers: int
    width: int
    heads: int
    key_value_heads: int
    inner_width: int


@dataclass(frozen=True)
class TowerSize:
    """The sizes of a SigLIP tower; pictures are squares of ``side`` pixels."""

    layers: int
    width: int
    heads: int
    inner_width: int
    side: int
    patch: int


# "so400m" is a slice of the tower of LLaVA-OneVision: 4 of its 26 layers over 729 patches
TOWER_SIZES = {
    "tiny": TowerSize(layers=2, width=32, heads=4, inner_width=64, side=56, patch=14),
    "so400m": TowerSize(layers=4, width=1152, heads=16, inner_width=4304, side=378, patch=14),
}

# "7b" is the language model of LLaVA-OneVision-7B
LLM_SIZES = {
    "tiny": LLMSize(layers=4, width=64, heads=4, key_value_heads=2, inner_width=128),
    "mid": LLMSize(layers=12, width=512, heads=8, key_value_heads=2, inner_width=1408),
    "7b": LLMSize(layers=28, width=3584, heads=28, key_value_heads=4, inner_width=18944),
}


def made_family(
    size: str,
    *,
    tower: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> VideoFamily:
    """A model with a language model of ``size`` (of LLM_SIZES) and the embedded model's tokenizer.

    Its tower has the sizes of the embedded model's, or those that ``tower`` names in TOWER_SIZES.

    Answers mean nothing and never end before they are as long as allowed. Weights are float32 on the CPU and
    bfloat16 elsewhere unless ``dtype`` says otherwise. Raises UnknownNameError or DeviceError.
    """
    if size not in LLM_SIZES:
        raise UnknownNameError.among("size", size, list(LLM_SIZES))
    if tower is not None and tower not in TOWER_SIZES:
        raise UnknownNameError.among("size of a tower", tower, list(TOWER_SIZES))
    chosen = choose_device(device)
    number_format = choose_dtype(dtype, chosen)
    if isinstance(number_format, str):
        number_format = torch.bfloat16
    return _made(LLM_SIZES[size], None if tower is None else TOWER_SIZES[tower], chosen, number_format)


def _made(size: LLMSize, tower: TowerSize | None, device: torch.device, dtype: torch.dtype) -> VideoFamily:
    hide_broken_torchvision()
    from transformers import AutoConfig, AutoTokenizer, LlavaOnevisionForConditionalGeneration

    folder = str(embedded_folder())
    config = AutoConfig.from_pretrained(folder)
    config.text_config.update(
        {
            "num_hidden_layers": size.layers,
            "layer_types": ["full_attention"] * size.layers,
            "hidden_size": size.width,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.key_value_heads,
            "intermediate_size": size.inner_width,
            "max_position_embeddings": 131072,
        }
    )
    settings = dict(read_video_settings(folder))
    if tower is not None:
        config.vision_config.update(
            {
                "num_hidden_layers": tower.layers,
                "hidden_size": tower.width,
                "num_attention_heads": tower.heads,
                "intermediate_size": tower.inner_width,
                "image_size": tower.side,
                "patch_size": tower.patch,
            }
        )
        settings["size"] = {"height": tower.side, "width": tower.side}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model = LlavaOnevisionForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # an id that cannot come up ends no answer
    model.generation_config.eos_token_id = config.text_config.vocab_size
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    name = f"random {size.layers} x {size.width}"
    return family_class(config.model_type, name)(Checkpoint(name, model, tokenizer, settings))
