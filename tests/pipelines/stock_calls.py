"""What stock processors give the small models of all families: prompts with videos, pictures, and batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from tests.models import test_frame_families as of_frames
from tests.models import test_llava_onevision as of_clips
from tests.models import test_qwen_families as of_slices
from tests.models.small_llava import save_small_llava
from tests.models.small_qwen import cut, patch_of, save_small_qwen

QWEN = ("qwen2_5_omni", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl")
LLAVA = ("llava_next_video", "llava_onevision")
NAMES = (*QWEN, "internvl", *LLAVA, "smolvlm", "video_llama_3")
FRAMES = {name: of_slices.FRAMES if name in QWEN else of_frames.FRAMES for name in NAMES}
# by what a family's pictures and videos are joined along their second axis
_SIDE_BY_SIDE = {"smolvlm": ("pixel_values",)}


def load_small(name: str, folder: Path, **settings: Any) -> VideoFamily:
    """The small model of family ``name``."""
    if name == "llava_onevision":
        return load_model(save_small_llava(folder), **settings)
    if name in of_frames.SAVE:
        return load_model(of_frames.SAVE[name](folder), **settings)
    # attention in all layers: recurrent ones cannot be told not to see a token
    layers = ["full_attention"] * 4 if name == "qwen3_5" else None
    return load_model(save_small_qwen(folder, name, layer_types=layers), **settings)


def pixels_of(family: VideoFamily, seed: int = 8, wide: int = 50) -> torch.Tensor:
    """A made video."""
    rng = np.random.default_rng(seed)
    shape = (30, wide, 3)
    frames = FRAMES[family.model_type]
    return family.preprocess([rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(frames)])


def video_inputs(family: VideoFamily, pixels: torch.Tensor) -> dict[str, Any]:
    """One prompt with one video."""
    made = of_slices.stock_inputs if family.model_type in QWEN else of_frames.stock_inputs
    if family.model_type == "llava_onevision":
        made = of_clips.stock_inputs
    inputs: dict[str, Any] = made(family, pixels)
    return inputs


def text_inputs(family: VideoFamily, text: str = "where is the big square ?") -> dict[str, Any]:
    """One prompt of text."""
    ids = torch.tensor([family.tokenizer(text, add_special_tokens=False)["input_ids"]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {**inputs, "mm_token_type_ids": torch.zeros_like(ids)} if _typed(family) else inputs


def _typed(family: VideoFamily) -> bool:
    """Whether the processor tells what kind each token is of."""
    return family.model_type in QWEN and family.model_type != "qwen2_5_omni"


def picture_inputs(family: VideoFamily, picture: torch.Tensor) -> dict[str, Any]:
    """A prompt with ``picture`` (3, rows, cols) alone."""
    name = family.model_type
    start, end = {
        "internvl": ("<img>", "</img>"),
        "smolvlm": ("<fake_token_around_image><global-img>", "<fake_token_around_image>"),
        **dict.fromkeys(LLAVA, ("what is", "?")),
    }.get(name, ("<|vision_start|>", "<|vision_end|>"))
    mark = family.tokenizer.convert_ids_to_tokens(family.model.config.image_token_id)
    visual: dict[str, Any] = {"pixel_values": picture[None] if name == "internvl" else picture[None, None]}
    count = 16
    if name in LLAVA:
        # the whole picture, and once more with a newline behind every row
        size, side = picture.shape[1], picture.shape[1] // 4
        visual = {"pixel_values": torch.stack([picture, picture])[None]}
        visual["image_sizes"] = torch.tensor([[size, size]])
        count = side * side + side * (side + 1)
    if name in (*QWEN, "video_llama_3"):
        patch, each = patch_of(name), 2 if name in QWEN else 1
        rows, cols = picture.shape[1] // (2 * patch), picture.shape[2] // (2 * patch)
        shown = picture[None].expand(each, -1, -1, -1)
        visual = {"pixel_values": cut(shown, slice_frames=each, patch=patch)}
        visual["image_grid_thw"] = torch.tensor([[1, 2 * rows, 2 * cols]])
        if name == "video_llama_3":
            visual["image_merge_sizes"] = torch.tensor([2])
        count = rows * cols
    text = text_inputs(family, f"what is {start}{mark * count}{end} the circle ?")
    if _typed(family):
        text["mm_token_type_ids"] = (text["input_ids"] == family.model.config.image_token_id).int()
    return {**text, **visual}


def one_after_another(family: VideoFamily, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One prompt that says and shows all that ``parts`` do."""
    return _joined(family, parts, 1)


def side_by_side(family: VideoFamily, prompts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of ``prompts``, filled up on the left."""
    longest = max(prompt["input_ids"].shape[1] for prompt in prompts)
    padded = []
    for prompt in prompts:
        missing = longest - prompt["input_ids"].shape[1]
        texts: dict[str, Any] = {
            name: torch.nn.functional.pad(prompt[name], (missing, 0))
            for name in ("input_ids", "attention_mask", "mm_token_type_ids")
            if name in prompt
        }
        padded.append({**prompt, **texts})
    return _joined(family, padded, 0)


def _joined(family: VideoFamily, parts: Sequence[dict[str, Any]], axis: int) -> dict[str, Any]:
    texts = ("input_ids", "attention_mask", "mm_token_type_ids")
    along_axis = (*texts, *_SIDE_BY_SIDE.get(family.model_type, ()))
    found: dict[str, Any] = {}
    for name in sorted({name for part in parts for name in part}):
        values = [part[name] for part in parts if name in part]
        found[name] = torch.cat(values, axis if name in along_axis else 0)
    return found
