"""Towers whose frames begin with a summary token: CLIP's and InternVL's."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel

from streamprune.encoder.base import EncoderMethod, LayerInput, LayerReduction, Place, TowerShape
from streamprune.encoder.token_map import TokenMap
from streamprune.encoder.tome import ToMe
from streamprune.encoder.zero_tprune import ZeroTPrune
from streamprune.models.vision_layers import TowerRun, VisionLayers
from tests.encoder.table import ROWS, Row
from tests.encoder.towers import DEPTH, HEADS, SHAPE, SIDE, WIDTH, pixels

PATCHES = SIDE * SIDE
KINDS = ("clip", "internvl", "internvl-normed")
every_tower = pytest.mark.parametrize("kind", KINDS)


@cache
def tower(kind: str) -> Any:
    """4 layers of width 16 over 6 x 6 patches and a summary."""
    settings: dict[str, Any] = {
        "hidden_size": WIDTH,
        "intermediate_size": 24,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": 4 * SIDE,
        "patch_size": 4,
    }
    torch.manual_seed(3)
    model: Any
    if kind == "clip":
        model = CLIPVisionModel(CLIPVisionConfig(**settings)).eval()
    else:
        normed = kind == "internvl-normed"
        model = InternVLVisionModel(InternVLVisionConfig(**settings, use_qk_norm=normed)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("cls_token", "position_embeddings", "class_embedding")):
                weight.normal_(std=0.5)
            elif name.endswith(("lambda_1", "lambda_2")):
                weight.uniform_(0.4, 1.0)
            elif name.endswith("weight") and weight.ndim == 2:
                weight.normal_(std=1.2 / weight.shape[1] ** 0.5)
    return model


def layers_of(kind: str) -> Any:
    """The stock layers."""
    encoder = tower(kind).encoder
    return encoder.layers if kind == "clip" else encoder.layer


@torch.no_grad()
def through(kind: str, states: torch.Tensor, first: int) -> torch.Tensor:
    """``states`` through the stock layers from ``first`` on."""
    for layer in layers_of(kind)[first:]:
        states = layer(states, None) if kind == "clip" else layer(states)
    return states


@torch.no_grad()
def stock(kind: str, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """States before the first layer and after each one, as the stock tower gives them."""
    found: list[torch.Tensor] = []
    first = layers_of(kind)[0].register_forward_pre_hook(lambda module, given: found.append(given[0]))
    hooks = [one.register_forward_hook(lambda module, i, out: found.append(out)) for one in layers_of(kind)]
    tower(kind)(frames)
    for hook in (first, *hooks):
        hook.remove()
    return tuple(found)


@torch.no_grad()
def run(kind: str, method: EncoderMethod, frames: torch.Tensor, *depths: int) -> TowerRun:
    """The tower with a method inside, read at ``depths``."""
    return VisionLayers(tower(kind), "small").run(frames, method, depths or (DEPTH,), SIDE)


@every_tower
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_setting_that_keeps_everything_changes_no_bit(row: Row, kind: str) -> None:
    found = run(kind, row.build(**row.nothing), pixels(3), 0, 2, DEPTH)
    expected = stock(kind, pixels(3))
    assert all(torch.equal(found.states[at], expected[depth]) for at, depth in enumerate((0, 2, DEPTH)))
    assert found.tokens == (3 * (PATCHES + 1),) * DEPTH
    assert found.share == 1


@every_tower
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_every_method_leaves_the_summary_where_it_is(
    row: Row, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, seen = row.build(), list[LayerInput]()
    decide = method.reduce_layer

    def reduce_layer(at: LayerInput) -> LayerReduction:
        seen.append(at)
        return decide(at)

    monkeypatch.setattr(type(method), "reduce_layer", lambda self, at: reduce_layer(at))
    frames = pixels(6, drift=0.05)
    found = run(kind, method, frames)
    assert found.states[0].shape == (6, PATCHES + 1, WIDTH)
    assert torch.isfinite(found.states[0]).all()
    announced = method.counts(SHAPE)
    if announced is not None and row.frames_alone:
        assert found.tokens[1:] == tuple(6 * (left + 1) for left in announced[:-1])
        assert found.share < 1
        # it has seen in the later layers that there were fewer patches
        assert not torch.equal(found.states[0][:, 0], stock(kind, frames)[DEPTH][:, 0])
    for at in seen:
        assert at.tokens <= PATCHES
        signals = [getattr(at.signals, name) for name in method.needs]
        assert all(signal.shape[2] == at.tokens for signal in signals)
        assert at.origin.min() >= 0
        assert at.origin.max() < PATCHES


@every_tower
def test_what_methods_see_is_the_layer_without_its_summary(kind: str) -> None:
    seen: list[LayerInput] = []

    class Looking(ZeroTPrune):
        needs: ClassVar[tuple[str, ...]] = ("queries", "keys", "values")

        def reduce_layer(self, at: LayerInput) -> LayerReduction:
            seen.append(at)
            return LayerReduction()

    run(kind, Looking(layers=(1,)), pixels(2))
    before, after = stock(kind, pixels(2))[1:3]
    layer = layers_of(kind)[1]
    attention = layer.self_attn if kind == "clip" else layer.attention
    with torch.no_grad():
        given = (layer.layer_norm1 if kind == "clip" else layer.layernorm_before)(before)
        keys, values = attention.k_proj(given), attention.v_proj(given)
        keys = keys if kind == "clip" else attention.k_norm(keys)
    assert torch.equal(seen[0].states, after[:, 1:])
    for found, expected in ((seen[0].signals.keys, keys), (seen[0].signals.values, values)):
        assert found is not None
        assert torch.equal(found.transpose(1, 2).flatten(2), expected[:, 1:])


@every_tower
def test_what_is_left_runs_as_if_nothing_else_had_been_there(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps: list[TokenMap] = []
    apply = TokenMap.apply

    def watched(step: TokenMap, values: torch.Tensor) -> torch.Tensor:
        maps.append(step)
        return apply(step, values)

    monkeypatch.setattr(TokenMap, "apply", watched)
    found = run(kind, ZeroTPrune(layers=(1,), layer_keep_share=0.5), pixels(1)).states[0]
    kept = maps[0].index[0]
    assert len(kept) == PATCHES // 2
    left = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + kept])
    expected = through(kind, stock(kind, pixels(1))[2][:, left], 2)
    torch.testing.assert_close(found[:, left], expected, rtol=0, atol=1e-5)


@every_tower
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_merged_patches_weigh_as_many_and_the_summary_as_one(
    kind: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tower(kind).config, "_attn_implementation", implementation)
    first, last = run(kind, ToMe(removed=(14,), layers=(0,)), pixels(2), 1, DEPTH).states
    # a token that weighs n counts as n equal ones
    torch.testing.assert_close(last, through(kind, first, 1), rtol=0, atol=1e-5)
    assert (through(kind, first, 1) - stock(kind, pixels(2))[DEPTH]).abs().max() > 1e-2


@every_tower
def test_frames_that_become_one_have_one_summary(kind: str) -> None:
    class Joining(ToMe):
        needs: ClassVar[tuple[str, ...]] = ()
        place: ClassVar[Place] = "after"

        def reduce_layer(self, at: LayerInput) -> LayerReduction:
            weights = [0.25, 0.75, 1.0] if at.layer == 0 else [0.5, 0.5]
            slot = [0, 0, 1] if at.layer == 0 else [0, 0]
            return LayerReduction(TokenMap.merge_frames(slot, weights, at.states))

        def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int:
            return tokens - 1  # so that it is asked

    one, two = run(kind, Joining(layers=(0, 1)), pixels(3), 1, 2).states
    before = stock(kind, pixels(3))[1]
    joined = torch.stack([0.25 * before[0] + 0.75 * before[1], before[2]])
    torch.testing.assert_close(one, joined[[0, 0, 1]], rtol=0, atol=1e-6)
    layer = layers_of(kind)[1]
    with torch.no_grad():
        mean = (layer(joined, None) if kind == "clip" else layer(joined)).mean(0)
    torch.testing.assert_close(two, mean.expand_as(two), rtol=0, atol=1e-5)
