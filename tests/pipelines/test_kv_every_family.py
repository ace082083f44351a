"""Every cache policy inside the own generate of every family: budgets to the entry, sdpa or eager."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import streamprune as sp
from streamprune.errors import UnsupportedModelError
from streamprune.kv.base import Policy
from streamprune.kv.knorm import KNorm
from streamprune.kv.pyramidkv import PyramidKV
from streamprune.models.base import VideoFamily
from streamprune.recipe import Choice, Recipe
from streamprune.registry import get_method, list_methods
from tests.cache.policies import each_policy
from tests.pipelines.stock_calls import NAMES, load_small, pixels_of, video_inputs

Pair = tuple[VideoFamily, VideoFamily]
NEW = 3
BY_CLASS = {row.load(): row.name for row in list_methods("kv")}


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The same model with both kinds of attention."""
    folder = tmp_path_factory.mktemp(request.param)
    sdpa, eager = (load_small(request.param, folder, attn_implementation=kind) for kind in ("sdpa", "eager"))
    return sdpa, eager


@pytest.fixture(scope="module")
def inputs(pair: Pair) -> dict[str, Any]:
    return video_inputs(pair[0], pixels_of(pair[0]))


@each_policy
def test_budgets_and_both_kinds_of_attention(
    pair: Pair, inputs: dict[str, Any], cls: type[Policy], options: dict[str, Any]
) -> None:
    visual = int((inputs["input_ids"] == pair[0].stock_inputs().token_id).sum())
    length = inputs["input_ids"].shape[1]
    entries = length - visual + visual // 2
    recipe = Recipe(stages={"kv": Choice(BY_CLASS[cls], {**options, "decoding": "hold"})})
    if not get_method("kv", BY_CLASS[cls]).runs_on(pair[0].model_type):
        with (
            sp.accelerate(pair[0].model, recipe, keep_tokens=entries, processor=pair[0].tokenizer),
            pytest.raises(UnsupportedModelError, match=cls.__name__),
        ):
            pair[0].model.generate(**inputs, max_new_tokens=NEW)
        return
    answers = []
    for family in pair:
        with sp.accelerate(family.model, recipe, keep_tokens=entries, processor=family.tokenizer):
            out = family.model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW,
                return_dict_in_generate=True,
                output_logits=True,
            )
        answers.append(torch.cat(out.logits))
        report = out.past_key_values.report()
        assert {layer.seen for layer in report} == {length + NEW - 1}
        held = [layer.held for layer in report]
        if cls is PyramidKV:
            assert held == sorted(held, reverse=True)
            assert held[0] > held[-1]
            assert abs(sum(held) - len(held) * entries) <= len(held) / 2
        else:
            assert set(held) == {entries}
    if cls is KNorm and hasattr(pair[0].model.get_decoder().layers[0].self_attn, "k_norm"):
        return  # all keys are of one norm there, and rounding decides
    assert torch.equal(answers[0].argmax(-1), answers[1].argmax(-1))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-3, rtol=1e-3)
