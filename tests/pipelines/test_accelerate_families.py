"""In-LLM methods inside the own generate of families whose inputs are not shortened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import streamprune as sp
from streamprune.errors import UnsupportedModelError
from streamprune.models.base import VideoFamily
from streamprune.models.loading import load_model
from tests.models.small_qwen import FAMILIES, save_small_qwen
from tests.models.test_attach import traces
from tests.models.test_qwen_families import FRAMES, stock_inputs


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoFamily:
    return load_model(save_small_qwen(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def inputs(family: VideoFamily) -> dict[str, Any]:
    rng = np.random.default_rng(8)
    frames = [rng.integers(0, 256, (30, 50, 3), dtype=np.uint8) for _ in range(FRAMES)]
    return stock_inputs(family, family.preprocess(frames))


def generate(family: VideoFamily, inputs: dict[str, Any]) -> Any:
    return family.model.generate(**inputs, do_sample=False, max_new_tokens=4, return_dict_in_generate=True)


def own_traces(family: VideoFamily) -> dict[str, Any]:
    # the stock model remembers the last prompt
    return {name: value for name, value in traces(family.model).items() if not name.endswith("rope_deltas")}


def test_keeping_everything_and_leaving_no_trace(family: VideoFamily, inputs: dict[str, Any]) -> None:
    found, stock = own_traces(family), generate(family, inputs)
    for ratio in (1.0, 0.25):
        with sp.accelerate(family.model, "fastv", keep_ratio=ratio, layer=1):
            inside = generate(family, inputs)
        assert torch.equal(inside.sequences, stock.sequences) or ratio < 1
        held = [layer.keys.shape[2] for layer in inside.past_key_values.layers]
        visual = int((inputs["input_ids"] == family.model.config.video_token_id).sum())
        assert held[0] - held[1] == visual - int(visual * ratio + 0.5)
    assert own_traces(family) == found
    assert torch.equal(generate(family, inputs).sequences, stock.sequences)


def test_what_comes_before_the_language_model_is_refused(family: VideoFamily) -> None:
    with pytest.raises(UnsupportedModelError, match=f"llava_onevision only, got {family.model_type}"):
        sp.accelerate(family.model, "stride", keep_ratio=0.5).__enter__()
