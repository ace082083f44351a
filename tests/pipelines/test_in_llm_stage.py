"""A recipe's in_llm stage, from the recipe's text to what the answer held."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import streamprune as sp
from streamprune.errors import InvalidTypeError, InvalidValueError, RecipeError
from streamprune.in_llm.base import InLLMMethod
from streamprune.metrics.flops import DecoderShape
from streamprune.pipelines.offline import VideoLLM
from streamprune.pipelines.request import AnswerRequest, read_recipe
from streamprune.recipe import Choice, Recipe
from streamprune.registry import list_methods, unregister_method

QUESTION = "what colour is the circle ?"
NAMES = [info.name for info in list_methods("in_llm")]
# what makes a method act that otherwise first looks whether it should
ACTING: dict[str, dict[str, Any]] = {"todre": {"threshold": 1.0}, "vla_pruner": {"window": 0}}


# what chooses while decoding and keeps the whole cache
DECODES = ("dycoke",)


@pytest.fixture(scope="module")
def video() -> Any:
    return np.random.default_rng(1).integers(0, 256, (4, 36, 44, 3), dtype=np.uint8)


def shape(vlm: VideoLLM) -> DecoderShape:
    return DecoderShape.from_config(vlm.family.text_config)


def only(method: str, **options: Any) -> Recipe:
    return Recipe(stages={"in_llm": Choice(method, options)})


@pytest.mark.parametrize("method", NAMES)
def test_keeping_all_says_the_same(vlm: VideoLLM, video: Any, method: str) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=4)
    ours = vlm.ask(video, QUESTION, recipe=only(method), keep_ratio=1.0, max_new_tokens=4)
    assert ours.text == stock.text
    assert ours.stats.kv_bytes == stock.stats.kv_bytes
    assert ours.stats.prefill_flops == stock.stats.prefill_flops


@pytest.mark.parametrize("method", [name for name in NAMES if name not in DECODES])
def test_fewer_tokens_cost_less_and_the_model_is_as_before(vlm: VideoLLM, video: Any, method: str) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=4)
    recipe = only(method, **ACTING.get(method, {}))
    ours = vlm.ask(video, QUESTION, recipe=recipe, keep_ratio=0.25, max_new_tokens=4)
    assert ours.stats.kv_bytes < stock.stats.kv_bytes
    assert ours.stats.prefill_flops < stock.stats.prefill_flops
    assert ours.stats.tokens_kept == stock.stats.tokens_kept, "all of them enter the language model"
    assert vlm.ask(video, QUESTION, max_new_tokens=4).text == stock.text


def test_operations_are_those_of_every_layer(vlm: VideoLLM, video: Any) -> None:
    answer = vlm.ask(video, QUESTION, recipe="fastv", keep_tokens=8, max_new_tokens=1)
    prompt = answer.stats.prompt_tokens
    each = (prompt, prompt, prompt - 64 + 8)
    assert answer.stats.prefill_flops == shape(vlm).prefill_flops(each)
    assert answer.stats.decode_flops == 0


def test_it_stands_behind_the_stages_before_it(vlm: VideoLLM, video: Any) -> None:
    text = '[pre_llm]\nmethod = "stride"\n[in_llm]\nmethod = "fastv"\nlayer = 1\nkeep_tokens = 5\n'
    recipe = Recipe.from_toml(text)
    answer = vlm.ask(video, QUESTION, recipe=recipe, keep_ratio=0.5, max_new_tokens=1)
    prompt = answer.stats.prompt_tokens
    assert answer.stats.tokens_kept == 32
    each = (prompt, prompt - 32 + 5, prompt - 32 + 5)
    assert answer.stats.prefill_flops == shape(vlm).prefill_flops(each)
    assert Recipe.from_toml(recipe.to_toml()) == recipe


@pytest.mark.parametrize("method", ["fastv", "framefusion"])
def test_a_cache_policy_goes_on_with_what_is_left(vlm: VideoLLM, video: Any, method: str) -> None:
    both = Recipe(
        stages={
            "in_llm": Choice(method, {"keep_ratio": 0.5}),
            "kv": Choice("streamingllm", {"keep_ratio": 0.5}),
        }
    )
    one = vlm.ask(video, QUESTION, recipe=only(method, keep_ratio=0.5), max_new_tokens=4)
    answer = vlm.ask(video, QUESTION, recipe=both, max_new_tokens=4)
    assert answer.stats.new_tokens > 1
    assert answer.stats.kv_bytes < 0.8 * one.stats.kv_bytes


@pytest.mark.parametrize(
    ("method", "refused"), [("dycoke", "DyCokeInner"), ("lazyllm", "LazyLLM")], ids=["dycoke", "lazyllm"]
)
def test_what_goes_back_to_the_cache_needs_all_of_it(
    vlm: VideoLLM, video: Any, method: str, refused: str
) -> None:
    recipe = Recipe(stages={"in_llm": Choice(method), "kv": Choice("streamingllm", {"keep_ratio": 0.5})})
    with pytest.raises(InvalidValueError, match=f"{refused} has to know every entry .* or the kv stage"):
        vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=4)


def test_layers_below_a_cut_may_forget_too(vlm: VideoLLM, video: Any) -> None:
    some = vlm.ask(video, QUESTION, recipe=only("fastv", keep_ratio=0.25), max_new_tokens=4)
    fewer = only("fastv", keep_ratio=0.25, compact_below=True)
    answer = vlm.ask(video, QUESTION, recipe=fewer, max_new_tokens=4)
    assert answer.stats.kv_bytes < some.stats.kv_bytes
    assert answer.stats.prefill_flops == some.stats.prefill_flops
    with_policy = Recipe(stages={**fewer.stages, "kv": Choice("streamingllm", {"keep_ratio": 0.5})})
    with pytest.raises(InvalidValueError, match="leave out compact_below or the kv stage"):
        vlm.ask(video, QUESTION, recipe=with_policy, max_new_tokens=4)


def test_threads_may_ask_with_different_recipes(vlm: VideoLLM, video: Any) -> None:
    recipes = [None, only("fastv", keep_ratio=0.1), only("feather", keep_ratio=0.5)] * 2
    encoded = vlm.encode(video)
    expected = [vlm.ask(encoded, QUESTION, recipe=one, max_new_tokens=4).text for one in recipes]
    got: dict[int, str] = {}

    def ask(number: int) -> None:
        got[number] = vlm.ask(encoded, QUESTION, recipe=recipes[number], max_new_tokens=4).text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(recipes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[number] for number in range(len(recipes))] == expected


def test_a_layer_the_model_does_not_have_is_refused_before_encoding(vlm: VideoLLM) -> None:
    with pytest.raises(InvalidValueError, match=r"before the layers \(3,\): this model has 3"):
        vlm.ask("no such file.mp4", QUESTION, recipe="fastv", layer=3)


@pytest.mark.parametrize("key", ["keep_ratio", "keep_tokens"])
def test_two_budgets_for_one_method_are_refused(key: str) -> None:
    recipe = only("fastv", **{key: 1}).with_budget(keep_ratio=0.5)
    with pytest.raises(RecipeError, match="has one already"):
        AnswerRequest((QUESTION,), recipe)


def test_options_of_a_call_are_the_methods(vlm: VideoLLM, video: Any) -> None:
    built = AnswerRequest((QUESTION,), read_recipe("feather", 0.5), {"stride": None}).in_llm()
    assert built == sp.Recipe.named("feather").build("in_llm", stride=None, keep_ratio=0.5)
    with pytest.raises(ValueError, match=r"unknown option of fastv 'lair'\. Did you mean 'layer'"):
        vlm.ask(video, QUESTION, recipe="fastv", lair=2)


class Foreign:
    """Not a method."""


def test_classes_of_another_kind_are_refused() -> None:
    sp.register_method(Foreign, "foreign_inside", stage="in_llm")
    try:
        with pytest.raises(InvalidTypeError, match=f"subclass of {InLLMMethod.__module__}.InLLMMethod"):
            AnswerRequest((QUESTION,), only("foreign_inside"))
    finally:
        unregister_method("foreign_inside", stage="in_llm")
