"""What only VideoLLaMA3 does: pixels shared by the frames, and a stock processor that drops tokens itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.pixel_budget import PixelBudget, patch_rows
from streamprune.models.preprocessing import Clip, FrameTransform
from streamprune.models.video_llama_3 import VideoLlama3
from streamprune.tokens import Reduction
from tests.models.small_qwen import cut
from tests.models.small_video_llama_3 import save_small_video_llama_3

RECORDED = Path(__file__).parent / "data" / "video_llama_3_pixels.npz"
# least tokens' worth of pixels of a frame, most of a clip
CASES = {"grow": (16, 128), "shrink": (4, 36), "same": (4, 64), "below": (6, 20)}
QUESTION = "what colour is the circle ?"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(save_small_video_llama_3(tmp_path_factory.mktemp("video_llama_3")))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_stock_processor(family: VideoFamily, name: str) -> None:
    least, most = CASES[name]
    settings = {"size": {"shortest_edge": least * 64, "longest_edge": most * 64}}
    own = VideoLlama3(Checkpoint("org/name", family.model, family.tokenizer, settings))
    with np.load(RECORDED) as recorded:
        images, grid = list(recorded[f"{name}_images"]), recorded[f"{name}_grid"][0]
        expected = torch.from_numpy(recorded[f"{name}_rows"])
    pixels = own.preprocess(images)
    assert tuple(pixels.shape) == (grid[0], 3, 4 * grid[1], 4 * grid[2])
    assert torch.equal(patch_rows(pixels, slice_frames=1, patch=4, merge=2), expected)


def test_sizes_are_those_of_the_stock_processor() -> None:
    budget = PixelBudget.from_settings(
        {}, token_side=28, slice_frames=1, defaults=VideoLlama3.pixel_defaults, pixels_of="shared"
    )
    with np.load(RECORDED) as recorded:
        found = [budget.size(Clip(*clip)) for clip in recorded["sizes"].tolist()]
        assert found == [tuple(size) for size in recorded["found"].tolist()]


def test_colours_that_the_settings_do_not_name_are_those_of_the_stock_processor(family: VideoFamily) -> None:
    assert family.transform == FrameTransform(
        size=family.default_size(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    )


@torch.no_grad()
def test_what_the_stock_processor_drops_can_be_dropped_alike(family: VideoFamily) -> None:
    """With the stock mask and positions without gaps; with the times of the frames as given."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(3, 3, 24, 32, generator=generator)
    seen = torch.rand(3 * 12, generator=generator) < 0.5
    seen[12:24] = False
    seen[12] = True  # one at least of every frame
    times = (0.04, 1.25, 9.9)
    rows = (
        ",".join(f"Time {t:.1f}s:" + "<|video_pad|>" * n for t, n in zip(times, counts(seen), strict=True)),
    )
    text = family.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": QUESTION}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = torch.tensor([family.tokenizer(text.replace("<|video_pad|>", rows[0]))["input_ids"]])
    stock: dict[str, Any] = {
        "input_ids": ids,
        "pixel_values_videos": cut(pixels, slice_frames=1),
        "video_grid_thw": torch.tensor([[3, 6, 8]]),
        "video_merge_sizes": torch.tensor([2]),
        "video_compression_mask": seen,
    }
    tokens = family.encode(pixels).tokens({})
    kept = Reduction.select(tokens, seen.nonzero()[:, 0])
    prompt = family.prompt(QUESTION, kept, pts_seconds=times, positions="renumber")
    assert torch.equal(prompt.input_ids, ids)
    found = family.model(**prompt.model_inputs()).logits
    assert torch.equal(found, family.model(**stock).logits)
    gaps = family.prompt(QUESTION, kept, pts_seconds=times)
    assert (family.model(**gaps.model_inputs()).logits - found).abs().max() > 1e-2


def counts(seen: torch.Tensor) -> list[int]:
    found: list[int] = seen.reshape(3, 12).sum(1).tolist()
    return found


def test_slices_of_several_frames_are_refused(family: VideoFamily) -> None:
    with pytest.raises(UnsupportedModelError, match="temporal_patch_size=2; the vision tower"):
        VideoLlama3(Checkpoint("org/name", family.model, family.tokenizer, {"temporal_patch_size": 2}))


@torch.no_grad()
def test_attention_signals_are_those_of_the_layer_that_is_read(tmp_path: Path) -> None:
    family = load_model(save_small_video_llama_3(tmp_path), attn_implementation="eager")
    pixels = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(4))
    tower = family.model.get_encoder("video")
    maps: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    hooks = [
        tower.encoder.layers[-1].self_attn.register_forward_hook(
            lambda module, args, output: maps.extend(output[1])
        ),
        tower.encoder.register_forward_hook(lambda module, args, output: states.append(output[0])),
    ]
    names = ("received_attention", "saliency", "encoder_features", "keys", "projector_sensitivity")
    found = family.encode(pixels, names).signals
    for hook in hooks:
        hook.remove()
    received = torch.stack([one[0].mean((0, 1)) for one in maps])
    expected = received.reshape(2, 3, 4, 4).mean(-1)
    torch.testing.assert_close(found["received_attention"], expected, rtol=0, atol=1e-6)
    assert found["received_attention"].std() > 1e-3
    normed = tower.post_layernorm(states[0]).reshape(2, 3, 4, 4, 32).mean(3)
    torch.testing.assert_close(found["encoder_features"], normed, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["saliency"].sum((1, 2)), torch.ones(2))
    assert found["keys"].shape == (2, 3, 4, 8)
    assert found["projector_sensitivity"].shape == (2, 3, 4)
