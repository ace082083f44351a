"""The tower run layer by layer, and LLaVA-OneVision with a method inside its tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from streamprune.encoder.base import EncoderMethod, TowerShape
from streamprune.encoder.earlytom import EarlyTom
from streamprune.encoder.saint import Saint
from streamprune.encoder.tome import ToMe
from streamprune.errors import InvalidValueError, SignalError, UnsupportedModelError
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.vision_layers import VisionLayers

NOTHING = ToMe(removed=0)


@pytest.fixture(scope="module")
def pixels(family: VideoFamily) -> torch.Tensor:
    rng = np.random.default_rng(8)
    return family.preprocess([rng.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(6)])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attn_implementation": "eager"},
        {"dtype": "bfloat16"},
        {"attn_implementation": "eager", "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_a_method_that_does_nothing_gives_the_stock_features_bit_for_bit(
    small_folder: Path, pixels: torch.Tensor, settings: dict[str, Any]
) -> None:
    family = load_model(small_folder, **settings)
    plain = family.encode(pixels, ("saliency", "frame_features", "encoder_features"))
    found = family.encode(pixels, ("saliency", "frame_features", "encoder_features"), NOTHING)
    assert torch.equal(found.features, plain.features)
    assert found.tower_share == plain.tower_share == 1
    for name, value in plain.signals.items():
        assert torch.equal(found.signals[name], value), name


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_both_kernels_weigh_keys_alike(
    small_folder: Path, pixels: torch.Tensor, implementation: str, family: VideoFamily
) -> None:
    other = load_model(small_folder, attn_implementation=implementation)
    expected = family.encode(pixels, (), ToMe(removed=8)).features
    torch.testing.assert_close(
        other.encode(pixels, (), ToMe(removed=8)).features, expected, rtol=1e-4, atol=1e-4
    )


def test_features_and_signals_come_from_the_same_states(family: VideoFamily, pixels: torch.Tensor) -> None:
    names = ("saliency", "encoder_features", "image_embeds")
    plain, found = family.encode(pixels, names), family.encode(pixels, names, ToMe(removed=12))
    assert found.features.shape == plain.features.shape
    assert not torch.equal(found.features, plain.features)
    assert found.signals["image_embeds"] is found.features
    assert not torch.equal(found.signals["saliency"], plain.signals["saliency"])
    # 49 patches, 12 fewer in the second of two layers
    assert found.tower_share == pytest.approx((49 + 37) / 98)


def test_the_model_is_left_as_it_was(family: VideoFamily, pixels: torch.Tensor) -> None:
    before = family.encode(pixels).features
    for method in (ToMe(), Saint(similarity_threshold=0.5, min_similar=1), EarlyTom(similarity_threshold=-1)):
        family.encode(pixels, (), method)
        assert torch.equal(family.encode(pixels).features, before)


def test_shares_of_parts_count_by_their_frames() -> None:
    def part(frames: int, share: float) -> EncodedFrames:
        return EncodedFrames(torch.zeros(frames, 2, 2, 3), {}, share)

    assert EncodedFrames.join([part(6, 0.5), part(2, 0.9)]).tower_share == pytest.approx(0.6)


@pytest.mark.parametrize("layers", [-2, 1, [1, 2], [0, -1]])
def test_other_feature_layers(small_folder: Path, pixels: torch.Tensor, layers: int | list[int]) -> None:
    family = load_model(small_folder)
    family.model.config.vision_feature_layer = layers
    if not isinstance(layers, int):
        model = family.model.model
        wide = torch.nn.Linear(64, 48)
        model.multi_modal_projector.linear_1 = wide
    plain = family.encode(pixels).features
    assert torch.equal(family.encode(pixels, (), NOTHING).features, plain)
    changed = family.encode(pixels, (), ToMe(removed=(10,), layers=(0,))).features
    assert not torch.equal(changed, plain)


def test_layers_above_the_features_do_not_exist(family: VideoFamily, pixels: torch.Tensor) -> None:
    with pytest.raises(InvalidValueError, match="layers must be below 2"):
        family.encode(pixels, (), ToMe(layers=(2,)))


@pytest.mark.parametrize("name", ["received_attention", "keys", "layer_saliency", "early_features"])
def test_signals_from_inside_the_tower_need_all_tokens(
    family: VideoFamily, pixels: torch.Tensor, name: str
) -> None:
    family.encode(pixels, (name,))
    with pytest.raises(SignalError, match=f"'{name}' is read inside the vision tower.*leave out the encoder"):
        family.encode(pixels, (name,), ToMe())


def test_kernels_without_a_bias_are_refused_where_one_is_needed(small_folder: Path) -> None:
    family = load_model(small_folder)
    family.model.get_encoder("video").config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match=r"'sdpa' or 'eager'.*'flash_attention_2'"):
        family.check_encoder(ToMe())
    family.check_encoder(ToMe(proportional=False))
    family.check_encoder(Saint())


def test_towers_of_other_kinds_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="SigLIP, CLIP and InternVL towers; 'none' has a Linear"):
        VisionLayers(torch.nn.Linear(2, 2), "none")


def test_a_family_that_cannot_says_so(family: VideoFamily) -> None:
    with pytest.raises(UnsupportedModelError, match="llava_onevision models cannot run a method inside"):
        VideoFamily.check_encoder(family, NOTHING)


def test_states_are_read_back_at_every_wanted_depth() -> None:
    config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        vision_use_head=False,
    )
    tower, given = SiglipVisionModel(config).eval(), torch.rand(2, 3, 16, 16)
    layers = VisionLayers(tower, "small")
    with torch.no_grad():
        stock = tower(given, output_hidden_states=True).hidden_states
        method: EncoderMethod = ToMe(removed=(4,), layers=(1,))
        run = layers.run(given, method, (0, 1, 3), 4)
        last = layers.run(given, method, (3,), 4)
    assert layers.depth == 3
    assert torch.equal(run.states[0], stock[0])
    assert torch.equal(run.states[1], stock[1])
    assert torch.equal(run.states[2], last.states[0])
    assert run.states[2].shape == stock[3].shape
    assert run.tokens == (32, 32, 24)
    assert run.share == pytest.approx(88 / 96)
    layers.check(method, TowerShape(3, 4, 4))
