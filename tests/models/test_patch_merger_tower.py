"""Signals from inside a Qwen tower against attention maps of the tower running eager."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.patch_merger_tower import PatchMergerTower
from streamprune.models.pixel_signals import Patches
from streamprune.ops.sensitivity import sensitivity
from tests.models.small_qwen import FAMILIES, WINDOWS, patch_of, save_small_qwen

SLICES, ROWS, COLS = 3, 3, 5  # windows of 2 x 2 tokens do not divide it


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_qwen(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def family(folder: Path) -> VideoFamily:
    return load_model(folder)


@pytest.fixture(scope="module")
def pixels(family: VideoFamily) -> torch.Tensor:
    side = 2 * patch_of(family.model_type)
    shape = (2 * SLICES, 3, side * ROWS, side * COLS)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def token_order(family: VideoFamily) -> list[int]:
    """For every token of a slice its place inside the tower: windows one after another, cut at the edge."""
    flat = np.arange(ROWS * COLS).reshape(ROWS, COLS)
    if family.model_type not in WINDOWS:
        return flat.flatten().tolist()
    inside = [
        int(n)
        for y in range(0, ROWS, 2)
        for x in range(0, COLS, 2)
        for n in flat[y : y + 2, x : x + 2].flatten()
    ]
    return [inside.index(token) for token in range(ROWS * COLS)]


@torch.no_grad()
def queries_and_keys(family: VideoFamily, pixels: torch.Tensor, block: int) -> tuple[torch.Tensor, ...]:
    """(slices, heads, patches, width) of one block, caught where the tower hands them to its attention."""
    attention = family.model.get_encoder("video").blocks[block].attn
    module = __import__(type(attention).__module__, fromlist=["apply_rotary_pos_emb_vision"])
    stock, calls = module.apply_rotary_pos_emb_vision, []

    def spy(q: torch.Tensor, k: torch.Tensor, *tables: torch.Tensor) -> Any:
        calls.append((*stock(q, k, *tables), k))
        return calls[-1][:2]

    module.apply_rotary_pos_emb_vision = spy  # type: ignore[attr-defined]
    try:
        family.encode(pixels)
    finally:
        module.apply_rotary_pos_emb_vision = stock  # type: ignore[attr-defined]
    return tuple(rows.unflatten(0, (SLICES, -1)).transpose(1, 2) for rows in calls[block])


def by_token(family: VideoFamily, rows: torch.Tensor) -> torch.Tensor:
    """(slices, patches, ...) to (slices, rows, cols, ...)."""
    merged = rows.unflatten(1, (ROWS * COLS, 4)).mean(2)[:, token_order(family)]  # type: ignore[no-untyped-call]
    return merged.unflatten(1, (ROWS, COLS))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "block"),
    [("received_attention", 3), ("received_attention_middle", 1), ("received_attention_shallow", 1)],
)
def test_received_attention_is_the_mean_of_the_map(
    family: VideoFamily, pixels: torch.Tensor, name: str, block: int
) -> None:
    queries, keys, _ = queries_and_keys(family, pixels, block)
    attention = torch.softmax(queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5, -1)
    expected = by_token(family, attention.mean((1, 2)))
    found = family.encode(pixels, (name,)).signals[name]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert found.std() > 1e-3
    other = queries_and_keys(family, pixels, 4 - block)
    assert (
        by_token(family, torch.softmax(other[0] @ other[1].mT, -1).mean((1, 2))) - found
    ).abs().max() > 1e-3


def test_saliency_is_the_row_of_the_mean_query(family: VideoFamily, pixels: torch.Tensor) -> None:
    queries, keys, _ = queries_and_keys(family, pixels, 3)
    query, tokens = queries.mean(2), by_token(family, keys.transpose(1, 2))
    scores = torch.einsum("fhd,fyxhd->fhyx", query, tokens) / query.shape[-1] ** 0.5
    expected = torch.softmax(scores.flatten(2), -1).mean(1).unflatten(1, (ROWS, COLS))  # type: ignore[no-untyped-call]
    found = family.encode(pixels, ("saliency",)).signals["saliency"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_keys_and_features_are_means_over_patches(family: VideoFamily, pixels: torch.Tensor) -> None:
    _, _, unrotated = queries_and_keys(family, pixels, 3)
    names = ("keys", "encoder_features", "image_embeds", "frame_features")
    encoded = family.encode(pixels, names)
    expected = by_token(family, unrotated.mean(1))
    torch.testing.assert_close(encoded.signals["keys"], expected, rtol=0, atol=1e-6)
    assert torch.equal(encoded.signals["image_embeds"], encoded.features)
    torch.testing.assert_close(encoded.signals["frame_features"], encoded.features.mean((1, 2)))
    caught: list[torch.Tensor] = []
    merger = family.model.get_encoder("video").merger
    handle = merger.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    family.encode(pixels)
    handle.remove()
    states = by_token(family, caught[0].unflatten(0, (SLICES, -1)))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(encoded.signals["encoder_features"], states, rtol=0, atol=1e-6)


def test_signals_of_every_layer_are_those_of_blocks_that_see_a_slice(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    blocks = (1, 3) if family.model_type in WINDOWS else range(4)
    found = family.encode(pixels, ("layer_saliency",)).signals["layer_saliency"]
    assert tuple(found.shape) == (SLICES, len(blocks), ROWS, COLS)
    for number, block in enumerate(blocks):
        queries, keys, _ = queries_and_keys(family, pixels, block)
        scores = queries.mean(2, keepdim=True) @ keys.mT / queries.shape[-1] ** 0.5
        expected = by_token(family, torch.softmax(scores, -1).mean((1, 2)))
        torch.testing.assert_close(found[:, number], expected, rtol=0, atol=1e-6)


def test_context_attention_is_the_row_of_the_patch_that_receives_most(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    queries, keys, _ = queries_and_keys(family, pixels, 3)
    attention = torch.softmax(queries @ keys.mT / queries.shape[-1] ** 0.5, -1).mean(1)
    rows = torch.stack([one[one.mean(0).argmax()] for one in attention])
    found = family.encode(pixels, ("context_attention",)).signals["context_attention"]
    torch.testing.assert_close(found, by_token(family, rows), rtol=0, atol=1e-6)


def test_early_features_and_sensitivity(family: VideoFamily, pixels: torch.Tensor) -> None:
    tower, caught = family.model.get_encoder("video"), []
    hooks = [
        tower.blocks[0].register_forward_hook(lambda module, args, output: caught.append(output)),
        tower.merger.register_forward_pre_hook(lambda module, args: caught.append(args[0])),
    ]
    family.encode(pixels)
    for hook in hooks:
        hook.remove()
    found = family.encode(pixels, ("early_features", "projector_sensitivity")).signals
    early = by_token(family, caught[0].unflatten(0, (SLICES, -1)))
    torch.testing.assert_close(found["early_features"], early, rtol=0, atol=1e-6)
    with torch.no_grad():
        scores = sensitivity(lambda rows: tower.merger(rows.reshape(-1, 32)), caught[1].reshape(-1, 4 * 32))
    ordered = scores.reshape(SLICES, -1)[:, token_order(family)].unflatten(1, (ROWS, COLS))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found["projector_sensitivity"], ordered, rtol=1e-4, atol=1e-5)


def test_change_is_from_the_first_frame_of_a_slice_to_the_last_of_the_next(
    family: VideoFamily, pixels: torch.Tensor
) -> None:
    std = torch.tensor(family.transform.std).view(3, 1, 1)
    found = family.encode(pixels, ("pixel_change",)).signals["pixel_change"]
    assert found[0].eq(0).all()
    for number in range(1, SLICES):
        change = ((pixels[2 * number + 1] - pixels[2 * number - 2]).abs() * std).mean(0)
        expected = torch.nn.functional.avg_pool2d(change[None], 2 * patch_of(family.model_type))[0]
        torch.testing.assert_close(found[number], expected, rtol=0, atol=1e-6)
    later = family.encode(pixels[2:], ("pixel_change",), before=pixels[0]).signals["pixel_change"]
    torch.testing.assert_close(later, found[1:], rtol=0, atol=1e-6)


def test_entropy_is_averaged_over_patches_and_frames(family: VideoFamily, pixels: torch.Tensor) -> None:
    patches = Patches(2 * ROWS, 2 * COLS, patch_of(family.model_type), family.transform)
    entropy = patches.entropy(pixels[[0, 1, 2, 2]]).reshape(4, 1, 2 * ROWS, 2 * COLS)
    expected = torch.nn.functional.avg_pool2d(entropy, 2)[:, 0].reshape(2, 2, ROWS, COLS).mean(1)
    found = family.encode(pixels[:3], ("pixel_entropy",)).signals["pixel_entropy"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_bfloat16_agrees_with_float32(folder: Path, family: VideoFamily, pixels: torch.Tensor) -> None:
    half = load_model(folder, dtype="bfloat16")
    for name in ("received_attention", "saliency"):
        found = half.encode(pixels, (name,)).signals[name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, family.encode(pixels, (name,)).signals[name], rtol=0.2, atol=5e-3)
    assert half.encode(pixels, ("keys",)).signals["keys"].dtype == torch.bfloat16


def test_no_hook_stays(family: VideoFamily, pixels: torch.Tensor) -> None:
    family.encode(pixels, family.available_signals())
    assert not any(module._forward_pre_hooks for module in family.model.modules())


BLOCKS = range(32)


@pytest.mark.parametrize(
    ("seeing", "expected"),
    [((7, 15, 23, 31), (31, 15, 7)), (None, (31, 15, 8)), ((5, 9), (9, 5, 5)), ((31,), (31, 31, 31))],
)
def test_blocks_that_see_a_whole_slice_are_chosen(
    seeing: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    tower = PatchMergerTower(BLOCKS, None, seeing)
    names = ("received_attention", "received_attention_middle", "received_attention_shallow")
    assert tuple(tower.blocks_of(name)[0] for name in names) == expected


def test_a_tower_without_such_a_block_has_no_attention_to_show() -> None:
    names = PatchMergerTower(BLOCKS, None, ()).names()
    assert names == ("encoder_features", "early_features", "projector_sensitivity")


def test_blocks_of_signals_of_every_layer() -> None:
    assert PatchMergerTower(BLOCKS, None, (7, 15)).blocks_of("layer_saliency") == [7, 15]
