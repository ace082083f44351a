"""What the table of methods says about families: every small model of every family gives what it promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.encoder.tome import ToMe
from streamprune.errors import UnknownNameError, UnsupportedModelError
from streamprune.models.families import FAMILIES, check_family, family_class
from streamprune.pipelines.offline import VideoLLM, load
from streamprune.recipe import Recipe
from streamprune.registry import get_method, list_methods
from tests.models.small_internvl import save_small_internvl
from tests.models.small_llava import save_small_llava
from tests.models.small_llava_next import save_small_llava_next
from tests.models.small_minicpm import save_small_minicpm
from tests.models.small_qwen import save_small_qwen
from tests.models.small_smolvlm import save_small_smolvlm
from tests.models.small_video_llama_3 import save_small_video_llama_3

SAVE: dict[str, Callable[[Path], Path]] = {
    "internvl": save_small_internvl,
    "llava_next_video": save_small_llava_next,
    "llava_onevision": save_small_llava,
    "minicpmv4_6": save_small_minicpm,
    "qwen2_5_omni": partial(save_small_qwen, model_type="qwen2_5_omni"),
    "qwen2_5_vl": partial(save_small_qwen, model_type="qwen2_5_vl"),
    "qwen2_vl": partial(save_small_qwen, model_type="qwen2_vl"),
    "qwen3_5": partial(save_small_qwen, model_type="qwen3_5"),
    "qwen3_vl": partial(save_small_qwen, model_type="qwen3_vl"),
    "smolvlm": save_small_smolvlm,
    "video_llama_3": save_small_video_llama_3,
}


@pytest.fixture(scope="module", params=sorted(SAVE))
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoLLM:
    return load(SAVE[request.param](tmp_path_factory.mktemp(request.param)))


def _clip(frames: int = 4) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (frames, 40, 48, 3), dtype=np.uint8)


def test_every_family_is_here() -> None:
    assert SAVE.keys() == FAMILIES.keys()
    with pytest.raises(UnknownNameError, match=r"unknown model family 'qwen25vl'. Did you mean 'qwen2_5_vl'"):
        check_family("qwen25vl")


def test_the_table_of_a_family_leaves_out_what_it_cannot_run() -> None:
    def names(family: str) -> set[str]:
        found = CliRunner().invoke(app, ["methods", "--family", family, "--json"])
        assert found.exit_code == 0, found.output
        return {f"{row['stage']}:{row['name']}" for row in json.loads(found.stdout)}

    everything = {f"{info.stage}:{info.name}" for info in list_methods()}
    inside = {name for name in everything if name.startswith("in_llm:")}
    assert everything - names("qwen2_5_vl") == everything - names("qwen2_5_omni")
    assert inside | {"encoder:tome"} == (inside | {"encoder:tome"}) & names("llava_onevision")
    for recurrent in ("qwen3_5", "minicpmv4_6"):
        missing = everything - names(recurrent)
        assert inside | {"kv:expected_attention", "encoder:tome"} <= missing
        assert not [name for name in missing if name.startswith(("pre_llm:", "frames:"))]


def test_an_unsupported_family_is_answered_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedModelError) as error:
        family_class("gemma4", "some/model")
    for part in ("'some/model' is of the family 'gemma4'", *FAMILIES, "VideoFamily", "CONTRIBUTING.md"):
        assert part in str(error.value)
    assert family_class("qwen2_5_omni_thinker", "some/part") is family_class("qwen2_5_omni", "some/model")


def test_it_gives_every_signal_a_reducer_reads(vlm: VideoLLM) -> None:
    for info in list_methods("pre_llm"):
        assert info.runs_on(vlm.family.model_type)
        vlm.family.check_signals(info.needs)


def test_encoder_methods_run_where_the_table_says(vlm: VideoLLM) -> None:
    if vlm.family.model_type in get_method("encoder", "tome").families:
        vlm.family.check_encoder(ToMe())
    else:
        with pytest.raises(UnsupportedModelError, match="vision tower"):
            vlm.family.check_encoder(ToMe())


@pytest.mark.parametrize(
    ("recipe", "options"), [("fastv", {"layer": 1}), ("snapkv", {"window": 4, "protect_text": False})]
)
def test_stages_inside_the_language_model_run(vlm: VideoLLM, recipe: str, options: dict[str, Any]) -> None:
    full = vlm.ask(_clip(), "what is it ?", max_new_tokens=3)
    stage = Recipe.named(recipe).stages
    if not all(get_method(one, recipe).runs_on(vlm.family.model_type) for one in stage):
        with pytest.raises(UnsupportedModelError, match=r"layer 1 is of the kind .*pre_llm stage"):
            vlm.ask(_clip(), "what is it ?", recipe=recipe, keep_ratio=0.3, max_new_tokens=3, **options)
        return
    less = vlm.ask(_clip(), "what is it ?", recipe=recipe, keep_ratio=0.3, max_new_tokens=3, **options)
    assert 0 < less.stats.kv_bytes < full.stats.kv_bytes
    same = vlm.ask(_clip(), "what is it ?", recipe=recipe, keep_ratio=1.0, max_new_tokens=3, **options)
    assert same.text == full.text


def test_answers_are_explained(vlm: VideoLLM) -> None:
    recipe = Recipe.from_toml('keep_ratio = 0.5\n[pre_llm]\nmethod = "stride"\n[kv]\nmethod = "snapkv"\n')
    found = vlm.explain(_clip(), "what is red ?", recipe=recipe, max_new_tokens=2, command=["x"])
    assert found.full is not None
    tokens = len(found.kept.source)
    assert found.full.layer_tokens == (tokens,) * len(found.full.layer_tokens)
    assert found.reduced.layer_tokens == (len(found.kept.index),) * len(found.full.layer_tokens)
    assert len(found.pictures) == found.grid[0] == len(found.pts_seconds)
    assert sum(map(len, found.pictures)) == 4
    assert found.attention is not None
    assert len(found.attention.tokens) == tokens == found.grid[0] * found.grid[1] * found.grid[2]
    assert sum(found.reduced.kv_bytes) == found.reduced.stats["kv_bytes"]
