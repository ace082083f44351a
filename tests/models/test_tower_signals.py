"""Signals from inside the tower against the attention maps that the stock tower shows when it runs eager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from transformers import CLIPVisionConfig, LlavaOnevisionForConditionalGeneration, SiglipVisionConfig

from streamprune.errors import SignalError
from streamprune.models import tower_signals
from streamprune.models.base import Checkpoint
from streamprune.models.llava_onevision import LlavaOnevision
from streamprune.ops import attention
from tests.models.small_llava import make_config, make_tokenizer, sharpen

FRAMES = 3


@dataclass(frozen=True)
class Shape:
    """Layers, heads, patches along a side, and which state the projector reads."""

    layers: int = 5
    heads: int = 4
    side: int = 7
    feature_layer: int | list[int] = -1

    @property
    def feeding(self) -> int:
        chosen = self.feature_layer if isinstance(self.feature_layer, int) else self.feature_layer[-1]
        return chosen + self.layers if chosen < 0 else chosen - 1


SHAPES = [
    Shape(),
    Shape(layers=9, heads=2, side=4, feature_layer=-2),
    Shape(layers=3, heads=8, side=5, feature_layer=2),
    Shape(heads=1, side=1),
]


def make_family(shape: Shape, dtype: torch.dtype = torch.float32) -> LlavaOnevision:
    torch.manual_seed(4)
    config = make_config()
    side = 4 * shape.side
    config.vision_config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=side,
        patch_size=4,
        vision_use_head=False,
    )
    config.vision_feature_layer = shape.feature_layer
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    sharpen(model)
    return LlavaOnevision(Checkpoint("small", model.to(dtype), make_tokenizer(), {}))


def make_clip_family() -> LlavaOnevision:
    """Six by six patches and a summary token, read before the last of five layers."""
    torch.manual_seed(4)
    config = make_config()
    config.vision_config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=24,
        patch_size=4,
    )
    config.vision_feature_layer = -2
    config.vision_feature_select_strategy = "default"
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    sharpen(model)
    return LlavaOnevision(Checkpoint("small", model, make_tokenizer(), {}))


def make_pixels(shape: Shape, frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(frames, 3, 4 * shape.side, 4 * shape.side, generator=torch.Generator().manual_seed(9))


class Oracle:
    """What the stock tower gives when it runs eager and shows everything."""

    @torch.no_grad()
    def __init__(self, family: LlavaOnevision, pixels: torch.Tensor) -> None:
        tower = copy.deepcopy(family.model.model.vision_tower)
        tower.set_attn_implementation("eager")
        self.layers = tower.encoder.layers
        out = tower(pixels, output_attentions=True, output_hidden_states=True)
        self.maps, self.states = out.attentions, out.hidden_states

    @torch.no_grad()
    def project(self, layer: int, name: str) -> torch.Tensor:
        """(frames, heads, patches, head width)."""
        attn = self.layers[layer].self_attn
        rows = getattr(attn, name)(self.layers[layer].layer_norm1(self.states[layer]))
        return rows.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    def received(self, layer: int) -> torch.Tensor:
        return self.maps[layer].float().mean((1, 2))  # type: ignore[no-any-return]


def pool(values: torch.Tensor) -> torch.Tensor:
    """(frames, patches, channels) to (frames, rows, cols, channels), written out."""
    side = round(values.shape[1] ** 0.5)
    grid = values.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()  # type: ignore[no-untyped-call]
    half = -(-side // 2)
    return torch.nn.functional.interpolate(grid, size=(half, half), mode="bilinear").permute(0, 2, 3, 1)


def agree(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_received_attention_is_the_mean_of_the_eager_map_of_the_right_layer(shape: Shape) -> None:
    family, pixels = make_family(shape), make_pixels(shape)
    names = ("received_attention", "received_attention_middle", "received_attention_shallow")
    found = family.encode(pixels, names).signals
    oracle = Oracle(family, pixels)
    for name, layer in zip(names, (shape.feeding, shape.feeding // 2, shape.feeding // 4), strict=True):
        agree(found[name], pool(oracle.received(layer)[..., None])[..., 0])
        assert found[name].dtype == torch.float32
    if shape.side > 1:  # the layers differ, so the test can tell them apart
        assert (oracle.received(shape.feeding) - oracle.received(shape.feeding - 1)).abs().max() > 1e-3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_keys_and_states(shape: Shape) -> None:
    family, pixels = make_family(shape), make_pixels(shape)
    found = family.encode(pixels, ("keys", "encoder_features", "early_features", "image_embeds"))
    oracle = Oracle(family, pixels)
    agree(found.signals["keys"], pool(oracle.project(shape.feeding, "k_proj").mean(1)))
    agree(found.signals["encoder_features"], pool(oracle.states[shape.feeding + 1]))
    agree(found.signals["early_features"], pool(oracle.states[1]))
    assert torch.equal(found.signals["image_embeds"], found.features)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_layer_up_to_the_one_that_feeds_the_projector(shape: Shape) -> None:
    family, pixels = make_family(shape), make_pixels(shape)
    names = ("layer_saliency", "layer_value_similarity", "layer_value_norm")
    found = family.encode(pixels, names).signals
    oracle = Oracle(family, pixels)
    assert found["layer_saliency"].shape[1] == shape.feeding + 1
    for layer in range(shape.feeding + 1):
        queries, keys, values = (oracle.project(layer, name) for name in ("q_proj", "k_proj", "v_proj"))
        row = queries.mean(2, keepdim=True) @ keys.mT / keys.shape[-1] ** 0.5
        agree(found["layer_saliency"][:, layer], pool(row.softmax(-1).mean(1).mT)[..., 0])
        similarity = (values.mean(2, keepdim=True) @ values.mT).softmax(-1).mean(1)
        agree(found["layer_value_similarity"][:, layer], pool(similarity.mT)[..., 0])
        agree(found["layer_value_norm"][:, layer], pool(values.mean(1).abs().sum(-1, keepdim=True))[..., 0])


@pytest.mark.parametrize("threshold", [0.0, 1.5, 34.76])
def test_context_attention_is_the_mean_row_of_the_context_tokens(
    monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    monkeypatch.setattr(tower_signals, "CONTEXT_THRESHOLD", threshold)
    shape = SHAPES[0]
    family, pixels = make_family(shape), make_pixels(shape)
    found = family.encode(pixels, ("context_attention",)).signals["context_attention"]
    oracle = Oracle(family, pixels)
    mean_map = oracle.maps[shape.feeding].mean(1)
    counts = []
    for frame, received in enumerate(oracle.received(shape.feeding)):
        rows = (received > threshold * received.mean()).nonzero()[:, 0]
        counts.append(len(rows))
        rows = rows if len(rows) else received.argmax()[None]
        agree(found[frame], pool(mean_map[frame, rows].mean(0)[None, :, None])[0, ..., 0])
    # all, some, and none with the highest in their stead
    expected = {0.0: counts == [49] * FRAMES, 1.5: 0 < min(counts) < 49, 34.76: counts == [0] * FRAMES}
    assert expected[threshold]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_projector_sensitivity_is_that_of_the_models_own_projector(dtype: torch.dtype) -> None:
    family, pixels = make_family(SHAPES[0], dtype), make_pixels(SHAPES[0])
    found = family.encode(pixels, ("projector_sensitivity", "encoder_features")).signals
    projector = copy.deepcopy(family.model.model.multi_modal_projector).double()
    generator = torch.Generator().manual_seed(0)
    moves = torch.randn(64, 32, generator=generator, dtype=torch.float64)
    moves *= 0.01 / moves.norm(dim=1, keepdim=True)
    states = found["encoder_features"].double()[..., None, :]
    with torch.no_grad():
        change = (projector(states + moves) - projector(states - moves)) / 0.02
    expected = change.norm(dim=-1).mean(-1).float()
    torch.testing.assert_close(found["projector_sensitivity"], expected, rtol=1e-3, atol=0)
    assert expected.std() > 1e-2 * expected.mean()
    assert {w.dtype for w in family.model.model.multi_modal_projector.parameters()} == {dtype}


def test_bfloat16_agrees_with_its_own_tower() -> None:
    shape = SHAPES[0]
    family, pixels = make_family(shape, torch.bfloat16), make_pixels(shape)
    found = family.encode(pixels, ("received_attention", "keys", "encoder_features")).signals
    oracle = Oracle(family, pixels.bfloat16())
    agree(found["received_attention"], pool(oracle.received(shape.feeding)[..., None])[..., 0], atol=2e-3)
    assert found["received_attention"].dtype == torch.float32
    assert found["keys"].dtype == found["encoder_features"].dtype == torch.bfloat16
    assert oracle.received(shape.feeding).std() > 5e-3


def test_no_more_than_a_block_of_an_attention_map_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(heads=2, side=14)  # 196 patches a frame
    family, pixels = make_family(shape), make_pixels(shape)
    whole = family.encode(pixels, ("received_attention",)).signals["received_attention"]
    seen: list[torch.Size] = []
    softmax: Callable[..., torch.Tensor] = torch.softmax

    def counted(scores: torch.Tensor, dim: int) -> torch.Tensor:
        seen.append(scores.shape)
        return softmax(scores, dim)

    monkeypatch.setattr(torch, "softmax", counted)
    monkeypatch.setattr(attention, "_BLOCK_SCORES", 2 * 128 * 196 * 2)
    blocks = family.encode(pixels, ("received_attention",)).signals["received_attention"]
    agree(blocks, whole, atol=1e-7)
    # two frames at a time, then the third
    assert [tuple(shape) for shape in seen] == [
        (frames, 2, rows, 196) for frames in (2, 1) for rows in (128, 68)
    ]


def test_of_several_feature_layers_the_last_one_counts_and_the_projector_reads_all() -> None:
    shape = Shape(feature_layer=[1, -2])
    family, pixels = make_family(shape), make_pixels(shape)
    found = family.encode(pixels, ("received_attention", "encoder_features", "projector_sensitivity")).signals
    oracle = Oracle(family, pixels)
    assert shape.feeding == 3
    agree(found["received_attention"], pool(oracle.received(3)[..., None])[..., 0])
    agree(found["encoder_features"], pool(torch.cat([oracle.states[1], oracle.states[4]], -1)))
    assert (found["projector_sensitivity"] > 0).all()


def test_a_summary_token_gives_saliency_and_is_left_out_of_the_grid() -> None:
    """A tower of the CLIP kind, whose first token stands for the frame."""
    family, pixels = make_clip_family(), make_pixels(Shape(side=6))
    assert "saliency" in family.available_signals()
    assert "frame_features" not in family.available_signals()
    names = family.available_signals()
    found = family.encode(pixels, names).signals
    oracle = Oracle(family, pixels)
    last = oracle.maps[3]
    keys, values = oracle.project(3, "k_proj"), oracle.project(3, "v_proj")
    agree(found["saliency"], pool(last[:, :, 0, 1:].mean(1)[..., None])[..., 0])
    assert torch.equal(found["layer_saliency"][:, 3], found["saliency"])
    agree(found["received_attention"], pool(last[..., 1:].mean((1, 2))[..., None])[..., 0])
    agree(found["keys"], pool(keys.mean(1)[:, 1:]))
    agree(found["encoder_features"], pool(oracle.states[4][:, 1:]))
    agree(found["early_features"], pool(oracle.states[1][:, 1:]))
    similarity = (values[:, :, :1] @ values[:, :, 1:].mT).softmax(-1).mean(1)
    agree(found["layer_value_similarity"][:, 3], pool(similarity.mT)[..., 0])
    most = last[..., 1:].mean((1, 2)).argmax(1) + 1
    row = last.mean(1)[torch.arange(FRAMES), most, 1:]
    agree(found["context_attention"], pool(row[..., None])[..., 0])
    assert all(tuple(found[name].shape[-2:]) == (3, 3) for name in names if name.startswith("layer"))


def test_the_features_stay_bit_for_bit_and_no_hook_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    family, pixels = make_family(SHAPES[0]), make_pixels(SHAPES[0])
    plain = family.encode(pixels).features  # transformers itself leaves hooks that record states

    def hooks() -> list[int]:
        return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in family.model.modules()]

    hooked = hooks()
    assert torch.equal(family.encode(pixels, family.available_signals()).features, plain)
    assert hooks() == hooked

    def broken(*args: object) -> torch.Tensor:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(tower_signals, "mean_attention", broken)
    with pytest.raises(RuntimeError, match="out of luck"):
        family.encode(pixels, ("received_attention",))
    assert hooks() == hooked


def test_nothing_is_made_on_the_default_device() -> None:
    """What a signal needs lies where the model lies, whatever the user's default device."""
    family, pixels = make_family(SHAPES[0]), make_pixels(SHAPES[0])
    names = family.available_signals()
    expected = family.encode(pixels, names).signals
    with torch.device("meta"):
        found = family.encode(pixels, names).signals
    for name in names:
        assert torch.equal(found[name], expected[name]), name


def test_a_tower_that_drops_tokens_on_the_way_is_refused() -> None:
    family = make_family(SHAPES[0])
    attn = family.model.model.vision_tower.encoder.layers[-1].self_attn
    with family._tower.watch(("received_attention",)), pytest.raises(SignalError, match="all 49 tokens"):
        attn(hidden_states=torch.zeros(2, 30, 32), attention_mask=None)
