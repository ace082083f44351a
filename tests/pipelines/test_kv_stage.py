"""A recipe's kv stage, from the recipe's text to what the answer held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import streamprune as sp
from streamprune import errors
from streamprune.cache.kept import KeptCache
from streamprune.metrics.flops import DecoderShape
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.offline import VideoLLM
from streamprune.pipelines.request import read_recipe
from streamprune.recipe import Choice, Recipe
from streamprune.registry import unregister_method

QUESTION = "what colour is the circle ?"
POLICIES = [row.name for row in sp.list_methods("kv") if not row.stacks]
STORES = [row.name for row in sp.list_methods("kv") if row.stacks]


@pytest.fixture(scope="module")
def video() -> Any:
    return np.random.default_rng(1).integers(0, 256, (6, 36, 44, 3), dtype=np.uint8)


def reduced_to(method: str, **options: Any) -> Recipe:
    return Recipe(stages={"kv": Choice(method, options)})


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The caches of the answers, in order."""
    found: list[Any] = []

    def remember(*args: Any) -> Any:
        found.append(answer_cache(*args))
        return found[-1]

    monkeypatch.setattr("streamprune.pipelines.asking.answer_cache", remember)
    return found


@pytest.mark.parametrize("method", POLICIES)
def test_keeping_all_says_the_same(vlm: VideoLLM, video: Any, method: str) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=6)
    ours = vlm.ask(video, QUESTION, recipe=reduced_to(method, keep_ratio=1.0), max_new_tokens=6)
    assert ours.text == stock.text
    assert ours.stats.kv_bytes == stock.stats.kv_bytes


@pytest.mark.parametrize("method", POLICIES)
def test_the_cache_is_as_small_as_it_says(vlm: VideoLLM, video: Any, caches: list[Any], method: str) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=6)
    recipe = reduced_to(method, keep_ratio=0.25, decoding="hold")
    ours = vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=6)
    assert ours.stats.new_tokens == 6, "nothing is compared when the answer ends at once"
    cache = caches[-1]
    assert isinstance(cache, KeptCache)
    assert ours.stats.kv_bytes == pytest.approx(sum(layer.bytes for layer in cache.report()), abs=100)
    # beside keys and values there are the numbers of the entries
    assert 0.2 < ours.stats.kv_bytes / stock.stats.kv_bytes < 0.4


# what leaves entries as they came, and what holds them in less room, in a prompt as short as this one
IDENTITY: dict[str, dict[str, Any]] = {
    "cskv": {"density": 1.0},
    "fourier_attention": {"states": None},
    "kivi": {"bits": 16},
    "mustafar": {"sparsity": 0.0},
}
SMALL: dict[str, dict[str, Any]] = {
    "cskv": {"exact_last": 8},
    "fourier_attention": {"states": 8, "exact_last": 8},
    "kivi": {"exact_last": 32},
    "mustafar": {"exact_last": 8},
}


@pytest.mark.parametrize("store", STORES)
def test_a_store_alone_is_a_recipe(vlm: VideoLLM, video: Any, caches: list[Any], store: str) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=6)
    same = vlm.ask(video, QUESTION, recipe=store, max_new_tokens=6, **IDENTITY[store])
    assert same.text == stock.text
    assert same.stats.kv_bytes == stock.stats.kv_bytes
    small = vlm.ask(video, QUESTION, recipe=store, keep_ratio=1.0, max_new_tokens=6, **SMALL[store])
    assert small.stats.new_tokens == 6
    assert small.stats.kv_bytes == sum(layer.bytes for layer in caches[-1].report())
    assert small.stats.kv_bytes < 0.9 * stock.stats.kv_bytes
    assert {layer.held for layer in caches[-1].report()} == {small.stats.prompt_tokens + 5}


@pytest.mark.parametrize("store", STORES)
def test_a_store_stands_beside_a_policy(vlm: VideoLLM, video: Any, caches: list[Any], store: str) -> None:
    options: dict[str, Any] = {"keep_ratio": 0.6, "window": 4, "max_new_tokens": 6}
    alone = vlm.ask(video, QUESTION, recipe="snapkv", **options)
    same = vlm.ask(video, QUESTION, recipe=f"snapkv+{store}", **options, **IDENTITY[store])
    assert same.text == alone.text
    assert same.stats.kv_bytes == alone.stats.kv_bytes
    small = vlm.ask(video, QUESTION, recipe=f"{store}+snapkv", **options, **SMALL[store])
    assert [layer.held for layer in caches[-1].report()] == [layer.held for layer in caches[0].report()]
    assert small.stats.kv_bytes < 0.95 * alone.stats.kv_bytes


def test_options_go_to_those_that_have_them(vlm: VideoLLM, video: Any, caches: list[Any]) -> None:
    toml = '[kv]\nmethod = "snapkv+mustafar+kivi"\nkeep_tokens = 40\nwindow = 4\nbits = 4\nexact_last = 32\n'
    recipe = Recipe.from_toml(toml, name="mine")
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    vlm.ask(video, QUESTION, recipe=recipe, max_new_tokens=2)
    policy, stores = caches[0].policy, caches[0].stores
    assert (policy.keep_tokens, policy.window) == (40, 4)
    assert [(type(one).__name__, one.exact_last) for one in stores] == [("Mustafar", 32), ("Kivi", 32)]
    assert stores[1].bits == 4


def test_operations_of_an_answer_count_what_is_held(vlm: VideoLLM, video: Any, caches: list[Any]) -> None:
    shape = DecoderShape.from_config(vlm.family.text_config)
    stock = vlm.ask(video, QUESTION, max_new_tokens=6).stats
    whole = vlm.ask(video, QUESTION, recipe=reduced_to("knorm", keep_tokens=1000), max_new_tokens=6).stats
    assert whole.decode_flops == stock.decode_flops
    held = vlm.ask(video, QUESTION, recipe=reduced_to("knorm", keep_tokens=20), max_new_tokens=6).stats
    pairs = stock.prompt_tokens * 5 + 15 - 21 * 5
    assert stock.decode_flops - held.decode_flops == shape.layers * 4 * shape.query_width * pairs
    assert held.prefill_flops == stock.prefill_flops
    grown = vlm.ask(
        video, QUESTION, recipe=reduced_to("knorm", keep_tokens=20, decoding="grow"), max_new_tokens=6
    ).stats
    assert grown.decode_flops - held.decode_flops == shape.layers * 4 * shape.query_width * (1 + 2 + 3 + 4)


def test_frames_and_text_are_labelled(vlm: VideoLLM, video: Any, caches: list[Any]) -> None:
    toml = """
    keep_ratio = 0.5
    [pre_llm]
    method = "stride"
    [kv]
    method = "knorm"
    keep_tokens = 40
    protect_text = true
    """
    answer = vlm.ask(video, QUESTION, recipe=Recipe.from_toml(toml), max_new_tokens=3)
    segments = caches[-1].labels.segments
    cells = caches[-1].labels.cells
    assert (cells[segments < 0] == -1).all()
    assert cells[segments >= 0].reshape(6, 8).diff(dim=1).eq(2).all(), "every second token of each frame"
    assert segments.shape == (1, answer.stats.prompt_tokens)
    frames = segments[segments >= 0]
    assert len(frames) == answer.stats.tokens_kept == 48
    assert torch.bincount(frames).tolist() == [8] * 6
    text = (segments[0] == -1).nonzero()[:, 0].tolist()
    for _, layer in caches[-1].kept_layers():
        for head in layer.entries["tokens"][0].tolist():
            assert set(text) <= set(head)


def test_a_policy_alone_takes_the_budget_and_the_options_of_the_call(
    vlm: VideoLLM, video: Any, caches: list[Any]
) -> None:
    by_name = vlm.ask(video, QUESTION, recipe="snapkv", keep_ratio=0.25, window=4, max_new_tokens=6)
    by_recipe = vlm.ask(
        video, QUESTION, recipe=reduced_to("snapkv", keep_ratio=0.25, window=4), max_new_tokens=6
    )
    assert by_name.text == by_recipe.text
    assert by_name.stats.tokens_kept == by_name.stats.tokens_in
    assert caches[0].policy == caches[1].policy
    assert caches[0].policy.window == 4
    with pytest.raises(errors.UnknownNameError, match="unknown option of snapkv 'windw'"):
        vlm.ask(video, QUESTION, recipe="snapkv", keep_ratio=0.25, windw=4)


def test_positions_can_be_counted_over_what_is_held(vlm: VideoLLM, video: Any, caches: list[Any]) -> None:
    stock = vlm.ask(video, QUESTION, max_new_tokens=6)
    whole = reduced_to("streamingllm", keep_tokens=1000, cache_positions="compact")
    assert vlm.ask(video, QUESTION, recipe=whole, max_new_tokens=6).text == stock.text
    given = {"recipe": "streamingllm", "keep_ratio": 0.25, "max_new_tokens": 6}
    vlm.ask(video, QUESTION, cache_positions="compact", **given)
    assert caches[-1].compact
    toml = "[kv]\nmethod = 'streamingllm'\nkeep_ratio = 0.25\ncache_positions = 'compact'\n"
    vlm.ask(video, QUESTION, recipe=Recipe.from_toml(toml), max_new_tokens=6)
    assert caches[-1].compact
    for _, layer in caches[-1].kept_layers():
        assert int(layer.entries["stored_at"].max()) < stock.stats.prompt_tokens
    with pytest.raises(errors.InvalidValueError, match=r'merges entries.*leave positions at "keep"'):
        vlm.ask("no-such-file.mp4", QUESTION, recipe="zeromerge", cache_positions="compact")


def test_together_with_a_method_inside_the_model(vlm: VideoLLM, video: Any, caches: list[Any]) -> None:
    inside = Choice("fastv", {"layer": 1})
    budget = sp.Budget(keep_ratio=0.5)
    alone = vlm.ask(video, QUESTION, recipe=Recipe("a", {"in_llm": inside}, budget), max_new_tokens=6)
    both = Recipe("b", {"in_llm": inside, "kv": Choice("tova", {"keep_tokens": 1000})}, budget)
    assert vlm.ask(video, QUESTION, recipe=both, max_new_tokens=6).text == alone.text
    stock = [layer.held for layer in caches[-1].report()]
    assert stock[0] > stock[1] == stock[2], "the upper layers have seen fewer tokens"
    fewer = Recipe("c", {"in_llm": inside, "kv": Choice("tova", {"keep_ratio": 0.5})}, budget)
    answer = vlm.ask(video, QUESTION, recipe=fewer, max_new_tokens=6)
    prompts = [held - answer.stats.new_tokens + 1 for held in stock]
    assert [layer.held for layer in caches[-1].report()] == [held // 2 for held in prompts]


def test_recipes_read_back_and_are_checked() -> None:
    recipe = Recipe.from_toml('[kv]\nmethod = "streamingllm"\nkeep_tokens = 8\nsinks = 2\n', name="mine")
    assert recipe.stages["kv"] == Choice("streamingllm", {"keep_tokens": 8, "sinks": 2})
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert read_recipe("snapkv").stages.keys() == {"kv"}


@pytest.mark.parametrize(
    ("recipe", "error", "said"),
    [
        (reduced_to("snapkv", kernel=2), errors.InvalidValueError, "kernel must be odd"),
        (reduced_to("snapkv", windows=2), errors.UnknownNameError, "unknown option of snapkv 'windows'"),
        (reduced_to("kivi", keep_ratio=0.5), errors.UnknownNameError, "unknown option of kivi 'keep_ratio'"),
        (Recipe.named("kivi").with_budget(0.5), errors.InvalidValueError, "need a policy beside them"),
        (reduced_to("kivi+kivi"), errors.InvalidValueError, "named twice in 'kivi"),
        (
            reduced_to("h2o+kivi+tova"),
            errors.InvalidValueError,
            "'h2o' and 'tova' are both a whole kv method",
        ),
        (reduced_to("snapkv+kivi", bts=4), errors.UnknownNameError, "Did you mean 'bits'"),
        (reduced_to("kivi", bits=3), errors.InvalidValueError, "bits must be 2, 4, 8 or 16, got 3"),
        (
            Recipe(stages={"in_llm": Choice("fastv"), "kv": Choice("kivi", {"unrotated": True})}),
            errors.RecipeError,
            "unrotated=False",
        ),
        (
            Recipe(stages={"in_llm": Choice("fastv"), "kv": Choice("kvzip")}),
            errors.RecipeError,
            "KVzip has the model read the prompt again.*leave out one of the two stages",
        ),
        (reduced_to("snapkw"), errors.UnknownNameError, "Did you mean 'snapkv'"),
        (reduced_to("knorm", keep_tokens=2, protect_last=3), errors.InvalidValueError, "smaller than the 3"),
        (reduced_to("knorm", keep_tokens=4).with_budget(0.5), errors.InvalidValueError, "not both"),
        (
            Recipe(stages={"in_llm": Choice("fastv"), "kv": Choice("infinipot_v")}),
            errors.RecipeError,
            "leave out one of the two stages",
        ),
        (
            Recipe(stages={"in_llm": Choice("fastv"), "kv": Choice("knorm", {"protect_text": True})}),
            errors.RecipeError,
            "protect_text.*not known above the layers",
        ),
    ],
)
def test_bad_recipes_are_found_before_anything_is_read(
    vlm: VideoLLM, recipe: Recipe, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        vlm.ask("no-such-file.mp4", QUESTION, recipe=recipe)


@dataclass(frozen=True)
class Foreign:
    """Not a policy."""


def test_a_method_of_the_users_must_be_a_policy(vlm: VideoLLM, video: Any) -> None:
    sp.register_method(Foreign, "foreign", stage="kv")
    try:
        with pytest.raises(errors.InvalidTypeError, match=r"'foreign' must be a subclass of .*Policy"):
            vlm.ask(video, QUESTION, recipe=reduced_to("foreign"))
    finally:
        unregister_method("foreign", stage="kv")
