"""What only MiniCPM-V 4.6 does: pictures of one area, and a tower that merges patches twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.loading import load_model
from streamprune.models.minicpmv4_6 import MiniCPMV46
from streamprune.models.pixel_budget import PixelArea
from streamprune.models.preprocessing import Clip
from streamprune.models.token_order import PictureOrder
from streamprune.tokens import Reduction, VideoGrid
from tests.models.small_minicpm import save_small_minicpm

RECORDED = Path(__file__).parent / "data" / "minicpmv4_6_pixels.npz"
CASES: dict[str, dict[str, Any]] = {
    "grow": {},
    "shrink": {},
    "same": {"scale_resolution": 48},
    "coarse": {"downsample_mode": "4x"},
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(save_small_minicpm(tmp_path_factory.mktemp("minicpm")), attn_implementation="eager")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_stock_processor(family: VideoFamily, name: str) -> None:
    settings = {"scale_resolution": 40, **CASES[name]}
    own = MiniCPMV46(Checkpoint("org/name", family.model, family.tokenizer, settings))
    with np.load(RECORDED) as recorded:
        images, sizes = list(recorded[f"{name}_images"]), recorded[f"{name}_sizes"]
        expected = torch.from_numpy(recorded[f"{name}_rows"])
    pixels = own.preprocess(images)
    assert (np.array(pixels.shape[2:]) == 4 * sizes).all()
    assert torch.equal(own.tower_rows(pixels), expected)


def test_sizes_are_those_of_the_stock_processor() -> None:
    area = PixelArea(448, 56)
    with np.load(RECORDED) as recorded:
        found = [area.size(Clip(1, *picture)) for picture in recorded["pictures"].tolist()]
        assert found == [tuple(size) for size in recorded["found"].tolist()]


@torch.no_grad()
def test_finer_tokens_are_those_of_the_stock_model(family: VideoFamily) -> None:
    """In the mode that merges once there are four times as many, in the same order."""
    own = MiniCPMV46(Checkpoint("org/name", family.model, family.tokenizer, {"downsample_mode": "4x"}))
    pixels = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([[4, 6]] * 2, dtype=torch.int32)
    stock = family.model.get_video_features(own.tower_rows(pixels), sizes, downsample_mode="4x")
    found = own.encode(pixels, ("received_attention",))
    assert found.features.shape == (2, 2, 3, 64)
    assert torch.equal(found.features.flatten(1, 2), torch.stack(list(stock.pooler_output)))
    assert found.signals["received_attention"].shape == (2, 2, 3)


def test_patches_row_by_row_become_squares() -> None:
    order = PictureOrder(VideoGrid(2, 2, 3))
    rows = torch.arange(2 * 4 * 6.0)
    expected = torch.nn.functional.avg_pool2d(rows.reshape(2, 4, 6), 2)
    assert torch.equal(order.tokens(rows), expected)
    assert order.grouped(rows)[:4].tolist() == [0, 1, 6, 7]
    whole = torch.arange(12.0)
    assert torch.equal(order.tokens(whole).flatten(), whole)


@torch.no_grad()
def test_signals_are_those_of_blocks_above_and_below_the_merging(family: VideoFamily) -> None:
    pixels = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(4))
    tower = family.model.get_encoder("video")
    maps: dict[int, torch.Tensor] = {}
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def caught(number: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            rows = kwargs["hidden_states"][0].unflatten(0, (2, -1))
            query, key = (
                project(rows).unflatten(-1, (4, 8)).transpose(1, 2)
                for project in (module.q_proj, module.k_proj)
            )
            maps[number] = torch.softmax(query @ key.mT / 8**0.5, -1).mean((1, 2))

        return hook

    hooks = [
        layer.self_attn.register_forward_hook(caught(number), with_kwargs=True)
        for number, layer in enumerate(tower.encoder.layers)
    ]
    hooks.append(
        family.model.model.merger.mlp[0].register_forward_hook(
            lambda module, args, output: calls.append((args[0], output))
        )
    )
    names = ("received_attention", "received_attention_shallow", "encoder_features", "projector_sensitivity")
    found = family.encode(pixels, names).signals
    for hook in hooks:
        hook.remove()
    # four patches a token above the merging, sixteen below
    for name, number, shape in (
        ("received_attention", 3, (2, 2, 2, 3, 2)),
        ("received_attention_shallow", 1, (2, 2, 4, 3, 4)),
    ):
        expected = maps[number].reshape(shape).mean((2, 4))
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-6)
        assert found[name].std() > 1e-4
    beside = torch.cat([given for given, _ in calls[:2]])
    features = beside.reshape(2, 2, 3, 4, 32).mean(3)
    torch.testing.assert_close(found["encoder_features"], features, rtol=0, atol=1e-5)
    assert found["projector_sensitivity"].shape == (2, 2, 3)


def test_settings_say_whether_a_video_has_a_number(family: VideoFamily) -> None:
    tokens = family.encode(torch.zeros(1, 3, 32, 32)).tokens({})
    prompts = {}
    for number in (True, False):
        settings = {"use_image_id": number}
        own = MiniCPMV46(Checkpoint("org/name", family.model, family.tokenizer, settings))
        ids = own.prompt("what is it ?", Reduction.identity(tokens)).input_ids[0]
        prompts[number] = own.tokenizer.convert_ids_to_tokens(ids)
    assert [word for word in prompts[True] if word not in ("<image_id>", "0", "</image_id>")] == prompts[
        False
    ]
    assert len(prompts[True]) == len(prompts[False]) + 3


def test_other_ways_of_merging_are_refused(family: VideoFamily) -> None:
    config = family.model.config
    config.merger_times = 2
    try:
        with pytest.raises(UnsupportedModelError, match=r"merger_times=2 and merge_kernel_size=\(2, 2\)"):
            MiniCPMV46(Checkpoint("org/name", family.model, family.tokenizer, {}))
    finally:
        config.merger_times = 1
