"""Models of given shapes: true sizes, slices, and random weights that every family can run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.errors import DeviceError, InvalidValueError, UnknownNameError
from streamprune.models import made_shape as making
from streamprune.models.families import FAMILIES
from streamprune.models.made_shape import empty_model, made_shape
from streamprune.models.shapes import SHAPES, find_shape
from streamprune.models.small_shapes import SMALL_SHAPES, find_small_shape
from streamprune.pipelines.offline import VideoLLM

# billions of parameters as the checkpoints' publishers say
_BILLIONS = {
    "internvl3-1b": 0.938,
    "internvl3-8b": 7.944,
    "llava-onevision-0.5b": 0.894,
    "llava-onevision-7b": 8.030,
    "qwen2.5-vl-3b": 3.755,
    "qwen2.5-vl-7b": 8.292,
    "qwen3-vl-4b": 4.438,
    "qwen3-vl-8b": 8.767,
}


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_shapes_have_the_published_sizes(name: str) -> None:
    model = empty_model(SHAPES[name])
    assert all(weight.is_meta for weight in model.parameters())
    count = sum(weight.numel() for weight in model.parameters())
    assert round(count / 1e9, 3) == _BILLIONS[name]


def test_a_slice_keeps_the_pattern_of_windows() -> None:
    shape = find_shape("qwen2.5-vl-7b")
    text, vision = shape.sliced(2)
    assert (text["num_hidden_layers"], vision["depth"], vision["fullatt_block_indexes"]) == (2, 8, [7])
    assert shape.sliced(9)[1]["fullatt_block_indexes"] == [7, 15]
    assert shape.sliced(28)[1]["depth"] == 32
    assert shape.sliced(None)[0]["num_hidden_layers"] == 28
    taps = find_shape("qwen3-vl-8b").sliced(4)[1]["deepstack_visual_indexes"]
    assert taps == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "layers", "least"),
    [("qwen2.5-vl-7b", 0, 1), ("qwen2.5-vl-7b", 29, 1), ("qwen3-vl-8b", 2, 3), ("internvl3-8b", -1, 1)],
)
def test_a_slice_that_is_none_is_refused(name: str, layers: int, least: int) -> None:
    shape = find_shape(name)
    with pytest.raises(InvalidValueError, match=rf"layers must be in \[{least}, {shape.layers}\].*{layers}"):
        shape.sliced(layers)


def test_unknown_names_are_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'qwen2\.5-vl-7b'"):
        find_shape("qwen25-vl-7b")
    with pytest.raises(UnknownNameError, match="Did you mean 'llava_onevision'"):
        find_small_shape("llava-onevision")


def test_there_is_a_small_shape_of_every_family() -> None:
    assert FAMILIES.keys() == SMALL_SHAPES.keys()


@pytest.mark.parametrize("model_type", sorted(SMALL_SHAPES))
def test_made_models_answer_at_length(model_type: str) -> None:
    family = made_shape(find_small_shape(model_type), device="cpu")
    film = np.random.default_rng(1).integers(0, 255, (4, 60, 60, 3), dtype=np.uint8)
    answer = VideoLLM(family).ask(film, "what is it?", recipe="stride", keep_ratio=0.5, max_new_tokens=5)
    assert answer.stats.new_tokens == 5
    assert answer.stats.tokens_kept < answer.stats.tokens_in
    for weight in family.model.parameters():
        assert torch.isfinite(weight).all()
    again = made_shape(find_small_shape(model_type), device="cpu")
    for weight, other in zip(family.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(weight, other)


def test_a_slice_is_made_and_says_so() -> None:
    family = made_shape(find_small_shape("qwen2_5_vl"), layers=1, device="cpu")
    assert family.checkpoint.name == "small qwen2_5_vl, 1 of 4 layers"
    assert len(family.model.get_decoder().layers) == 1
    assert len(family.model.get_encoder("video").blocks) == 2


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_free_bytes", lambda device: 2**30)
    with pytest.raises(DeviceError, match=r"take 30\.9 GiB and cpu has 1\.0 GiB free; use --layers"):
        made_shape(find_shape("qwen2.5-vl-7b"), device="cpu")
