"""The second embedded model: a stock Qwen2.5-VL, very small.

Its tower knows no place but the distance between patches, and half of its blocks look within windows of 3 x 3
tokens, a quarter of the frame: where and when something is, the language model reads from M-RoPE alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from streamprune.embedded.train.architecture import (
    TOKENS_PER_SLICE,
    Architecture,
    generation_config,
    with_placeholders,
)
from streamprune.embedded.train.packing import Frame, encode
from streamprune.embedded.train.pooling_head import PoolingHead
from streamprune.embedded.train.tokenizer import (
    END,
    IMAGE,
    PAD,
    START,
    VIDEO,
    VISION_END,
    VISION_START,
    build_tokenizer,
    vocabulary_size,
)
from streamprune.embedded.train.window_tower import merged, tower_rows
from streamprune.embedded.world.draw import CELLS, FRAME_SIDE
from streamprune.models.pixel_budget import patch_rows

PATCH = 8
MERGE = 2
SLICE_FRAMES = 2
WINDOW = 48
SLICES_PER_SECOND = 1  # clips have 2 frames a second, so a step of one in M-RoPE's time is one slice


def model_config() -> Qwen2_5_VLConfig:
    """The whole model: tower of four blocks of 128 (windowed, full, windowed, full), four layers of 192.

    The angles of M-RoPE turn fast (theta 8), so that six rows and columns differ in all sections.
    """
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": SLICE_FRAMES,
        "tokens_per_second": SLICES_PER_SECOND,
        "window_size": WINDOW,
        "out_hidden_size": 192,
        "fullatt_block_indexes": [1, 3],
        "initializer_range": 0.05,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
    }
    text = {
        "vocab_size": vocabulary_size(vision_words=True),
        "hidden_size": 192,
        "intermediate_size": 448,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 8.0, "mrope_section": [6, 5, 5]},
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "tie_word_embeddings": True,
    }
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=True,
    )


class Qwen25VL(Architecture):
    """Two frames are a slice; positions have three axes, and text goes on where the longer side ends."""

    model_type = "qwen2_5_vl"
    slice_frames = SLICE_FRAMES
    axes = 3
    frame = Frame((START, encode("user")[0], VISION_START), (VISION_END,))
    tower = ("model.model.visual.patch_embed.", "model.model.visual.blocks.")
    projector = ("model.model.visual.merger.",)
    placed_by_tower = False
    renumber_share = 0.0
    uneven_times = False
    stretches = (1, 2)  # clips as they are, and read as one frame a second

    def build(self) -> Qwen2_5_VLForConditionalGeneration:
        """The model with random weights."""
        model = Qwen2_5_VLForConditionalGeneration(model_config())
        model.generation_config = generation_config()
        return model

    def pooling_head(self) -> PoolingHead | None:
        """None: the family takes saliency from the tower's own attention."""
        return None

    def patches(self, model: Any, frames: Tensor) -> Tensor:
        """The last block's output, token by token, (slices, 144, 128)."""
        rows = patch_rows(frames, slice_frames=SLICE_FRAMES, patch=PATCH, merge=MERGE)
        return tower_rows(model.model.visual, rows, CELLS)

    def tokens(self, model: Any, patches: Tensor) -> Tensor:
        """Four patches merged to a token, (slices, 36, 192)."""
        return merged(model.model.visual, patches)

    def columns(self, model: Any, visual: Tensor) -> Tensor:
        """The tokens alone."""
        return visual

    def positions(self, slots: Sequence[int], kept: NDArray[np.int64], renumber: bool) -> NDArray[np.int64]:
        """Time, row and column of every kept token, from the place right behind the opening words on.

        The stock rule knows one distance in time, so ``slots`` must be evenly spaced.
        """
        first = len(self.frame.opening)
        if renumber:
            return np.broadcast_to(np.arange(first, first + len(kept)), (3, len(kept)))
        times = np.asarray(slots, np.int64)[::SLICE_FRAMES] // SLICE_FRAMES
        cell = kept % TOKENS_PER_SLICE
        places: NDArray[np.int64]
        places = np.stack([times[kept // TOKENS_PER_SLICE], cell // CELLS, cell % CELLS]) + first
        return places

    def text_start(self, positions: NDArray[np.int64], renumber: bool) -> int:
        """As far behind the video's start as the frame has rows, however long the video is."""
        return len(self.frame.opening) + (int(positions.shape[1]) if renumber else CELLS)

    def stock_inputs(self, ids: Sequence[int], frames: Tensor) -> dict[str, Tensor]:
        """A placeholder for every token, patches, their grid, and what makes ``generate`` use M-RoPE."""
        slices = len(frames) // SLICE_FRAMES
        row = with_placeholders(ids, slices * TOKENS_PER_SLICE)
        return {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "pixel_values_videos": patch_rows(frames, slice_frames=SLICE_FRAMES, patch=PATCH, merge=MERGE),
            "video_grid_thw": torch.tensor([[slices, CELLS * MERGE, CELLS * MERGE]]),
            "second_per_grid_ts": torch.tensor([1.0 / SLICES_PER_SECOND]),
            "mm_token_type_ids": 2 * (row == VIDEO).int(),
        }

    def save_model(self, folder: Path, model: Any) -> None:
        """Rounded to bfloat16."""
        deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
        build_tokenizer(vision_words=True).save_pretrained(folder)

    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings of the stock image processor, video processor and processor."""
        pixels = {
            "do_resize": True,
            "size": {"shortest_edge": FRAME_SIDE * FRAME_SIDE, "longest_edge": FRAME_SIDE * FRAME_SIDE},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "do_convert_rgb": True,
            "patch_size": PATCH,
            "temporal_patch_size": SLICE_FRAMES,
            "merge_size": MERGE,
        }
        return {
            "preprocessor_config.json": pixels | {"image_processor_type": "Qwen2VLImageProcessor"},
            "video_preprocessor_config.json": pixels | {"video_processor_type": "Qwen2VLVideoProcessor"},
            "processor_config.json": {"processor_class": "Qwen2_5_VLProcessor"},
        }
