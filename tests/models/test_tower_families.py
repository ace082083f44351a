"""Families with a method inside their tower, by the family and inside the model's own generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import streamprune as sp
from streamprune.encoder.saint import Saint
from streamprune.encoder.tome import ToMe
from streamprune.errors import InvalidValueError, SignalError, UnsupportedModelError
from streamprune.models.base import VideoFamily
from streamprune.recipe import Choice, Recipe
from streamprune.reduce import run_reducer
from streamprune.registry import build_method
from tests.models.test_attach import traces
from tests.pipelines.stock_calls import load_small, pixels_of, video_inputs

SIGNALS = ("image_embeds", "frame_features", "pixel_change", "pixel_entropy")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"attn_implementation": "eager"},
    {"dtype": "bfloat16"},
    {"attn_implementation": "eager", "dtype": "bfloat16"},
]


# layers below the states that are read; whether frames begin with a token that is no patch
TOWERS = {"internvl": (4, True), "llava_next_video": (3, True), "smolvlm": (4, False)}


@pytest.fixture(scope="module", params=TOWERS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_small(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def pixels(family: VideoFamily) -> torch.Tensor:
    return pixels_of(family)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_method_that_does_nothing_gives_the_stock_features_bit_for_bit(
    family: VideoFamily, pixels: torch.Tensor, settings: dict[str, Any], tmp_path: Any
) -> None:
    family = load_small(family.model_type, tmp_path, **settings)
    plain = family.encode(pixels, SIGNALS)
    found = family.encode(pixels, SIGNALS, ToMe(removed=0))
    assert torch.equal(found.features, plain.features)
    assert found.tower_share == plain.tower_share == 1
    assert all(torch.equal(found.signals[name], plain.signals[name]) for name in SIGNALS)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("internvl", -2), ("internvl", 2), ("llava_next_video", -1), ("llava_next_video", [1, -2])],
)
def test_other_feature_layers(pixels: torch.Tensor, name: str, layer: Any, tmp_path: Any) -> None:
    family = load_small(name, tmp_path)
    family.model.config.vision_feature_layer = layer
    if not isinstance(layer, int):
        family.model.model.multi_modal_projector.linear_1 = torch.nn.Linear(64, 64)
    names = ("image_embeds", "frame_features")
    plain, found = family.encode(pixels, names), family.encode(pixels, names, ToMe(removed=0))
    assert all(torch.equal(found.signals[name], plain.signals[name]) for name in names)
    assert (family.encode(pixels, (), ToMe(removed=8)).features - plain.features).abs().max() > 1e-2


def test_fewer_tokens_change_the_features(family: VideoFamily, pixels: torch.Tensor) -> None:
    # the stock model lays hooks of its own when it is asked for its states the first time
    plain, before = family.encode(pixels), traces(family.model)
    found = family.encode(pixels, ("frame_features",), ToMe(removed=8))
    # 64 patches, eight fewer in every further layer
    depth, summary = TOWERS[family.model_type]
    entering = [64 + summary - 8 * layer for layer in range(depth)]
    assert found.tower_share == pytest.approx(sum(entering) / (entering[0] * depth))
    assert found.features.shape == plain.features.shape
    assert (found.features - plain.features).abs().max() > 1e-2
    if family.model_type == "llava_next_video":
        assert found.signals["frame_features"].shape == (len(pixels), 32)
    else:
        torch.testing.assert_close(found.signals["frame_features"], found.features.mean((1, 2)))
    alone = torch.cat(
        [family.encode(frame, (), ToMe(removed=8)).features for frame in torch.split(pixels, 1)]
    )
    torch.testing.assert_close(alone, found.features, atol=1e-5, rtol=0)
    assert traces(family.model) == before


def test_what_cannot_be_had_is_said(family: VideoFamily, pixels: torch.Tensor, tmp_path: Any) -> None:
    for name in ("saliency", "keys", "encoder_features"):
        with pytest.raises(SignalError, match=f"'{name}' is read inside the vision tower.*leave out the enc"):
            family.encode(pixels, (name,), ToMe())
    with pytest.raises(InvalidValueError, match=f"layers must be below {TOWERS[family.model_type][0]}"):
        family.encode(pixels, (), ToMe(layers=(4,)))
    other = load_small(family.model_type, tmp_path)
    other.model.get_encoder("video").config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match=r"'sdpa' or 'eager'.*'flash_attention_2'"):
        other.check_encoder(ToMe())
    other.check_encoder(Saint())


@pytest.mark.parametrize("ratio", [1.0, 0.4])
def test_it_acts_inside_the_own_generate(family: VideoFamily, pixels: torch.Tensor, ratio: float) -> None:
    stages: Any = {"encoder": Choice("tome", {"removed": 8}), "pre_llm": Choice("stride")}
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "return_dict_in_generate": True}
    inputs, model = video_inputs(family, pixels), family.model
    with sp.accelerate(model, Recipe(stages=stages), keep_ratio=ratio):
        found = model.generate(**inputs, **settings, output_logits=True)
    tokens = family.encode(pixels, (), ToMe(removed=8)).tokens({})
    reduction = run_reducer(build_method("pre_llm", "stride", {"budget": sp.Budget(ratio)}), tokens)
    prompt = family.prompt("what colour is the circle ?", reduction)
    expected = model.generate(**prompt.model_inputs(), **settings, output_logits=True)
    assert all(torch.equal(*pair) for pair in zip(found.logits, expected.logits, strict=True))
    stock = model.generate(**inputs, **settings, output_logits=True)
    assert (found.logits[0] - stock.logits[0]).abs().max() > 1e-2
