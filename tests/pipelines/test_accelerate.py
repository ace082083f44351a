"""A recipe inside a stock model's own generate: the same answers as ask gives, and no trace afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import streamprune as sp
from streamprune.errors import (
    InvalidTypeError,
    InvalidValueError,
    RecipeError,
    SignalError,
    UnsupportedModelError,
)
from streamprune.models.base import EncodedFrames
from streamprune.pipelines.offline import VideoLLM
from streamprune.recipe import Choice, Recipe
from streamprune.registry import Stage
from streamprune.tokens import Reduction
from tests.in_llm.small_decoder import small_decoder
from tests.models.test_attach import same_states, states, traces

QUESTION = "what colour is the circle ?"
RECIPES = {
    "stride": Recipe(stages={"pre_llm": Choice("stride")}),
    "visionzip": Recipe(stages={"pre_llm": Choice("visionzip")}),
    "fastv": Recipe(stages={"in_llm": Choice("fastv")}),
    "feather": Recipe(stages={"in_llm": Choice("feather", {"layers": (1, 2)})}),
    "both": Recipe(
        stages={"pre_llm": Choice("stride"), "in_llm": Choice("fastv", {"layer": 1, "keep_ratio": 0.5})}
    ),
    "encoder": Recipe(
        stages={"encoder": Choice("tome"), "pre_llm": Choice("stride"), "in_llm": Choice("fastv")}
    ),
    "stc": Recipe(stages={"encoder": Choice("stc"), "pre_llm": Choice("stc")}),
}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@pytest.fixture(scope="module")
def clip() -> Any:
    return np.random.default_rng(1).integers(0, 256, (4, 36, 44, 3), dtype=np.uint8)


def stock_inputs(vlm: VideoLLM, clip: Any, question: str = QUESTION) -> dict[str, torch.Tensor]:
    """What the stock processor gives."""
    pixels = vlm.family.preprocess(list(clip))
    tokens = EncodedFrames.join([vlm.family.encode(pixels)]).tokens({})
    ids = vlm.family.prompt(question, Reduction.identity(tokens)).input_ids
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": pixels[None],
    }


def answer(model: Any, inputs: dict[str, Any], **settings: Any) -> list[int]:
    out = model.generate(**inputs, **{"do_sample": False, "max_new_tokens": 6, **settings})
    length = inputs["input_ids"].shape[1]
    assert torch.equal(out[0, :length], inputs["input_ids"][0]), "the whole prompt stands in front"
    return list(out[0, length:].tolist())


@recipes
def test_it_says_what_ask_says(vlm: VideoLLM, clip: Any, recipe: Recipe) -> None:
    inputs = stock_inputs(vlm, clip)
    with sp.accelerate(vlm.family.model, recipe, keep_ratio=0.25):
        ids = answer(vlm.family.model, inputs)
    asked = vlm.ask(clip, QUESTION, recipe=recipe, keep_ratio=0.25, max_new_tokens=6)
    assert vlm.family.tokenizer.decode(ids, skip_special_tokens=True).strip() == asked.text


@recipes
def test_keeping_everything_changes_no_bit(vlm: VideoLLM, clip: Any, recipe: Recipe) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    stages: dict[Stage, Choice] = {
        stage: choice for stage, choice in recipe.stages.items() if stage != "encoder"
    }
    if len(stages) == 2:
        stages["in_llm"] = Choice("fastv", {"layer": 1, "keep_ratio": 1.0})
    with torch.no_grad():
        logits = model(**inputs).logits
    ids = answer(model, inputs)
    with sp.accelerate(model, Recipe(stages=stages), keep_ratio=1.0), torch.no_grad():
        assert torch.equal(model(**inputs).logits, logits)
        assert answer(model, inputs) == ids


@recipes
def test_no_trace_is_left(vlm: VideoLLM, clip: Any, recipe: Recipe) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    answer(model, inputs)  # the first call of a stock model puts hooks of its own into the tower
    found, weights = traces(model), states(model)
    with torch.no_grad():
        logits = model(**inputs).logits
    with sp.accelerate(model, recipe, keep_ratio=0.25), torch.no_grad():
        assert model(**inputs).logits.shape[1] < logits.shape[1]
        answer(model, inputs)
    assert traces(model) == found
    assert same_states(model, weights)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, logits)


def test_an_exception_inside_restores_the_model(vlm: VideoLLM, clip: Any) -> None:
    model = vlm.family.model
    answer(model, stock_inputs(vlm, clip))  # see above
    found = traces(model)

    def fail() -> None:
        with sp.accelerate(model, RECIPES["both"], keep_ratio=0.5):
            answer(model, stock_inputs(vlm, clip))
            raise KeyError("of the user's")

    with pytest.raises(KeyError):
        fail()
    assert traces(model) == found


def test_a_batch_with_padding_answers_like_its_prompts_alone(vlm: VideoLLM, clip: Any) -> None:
    model = vlm.family.model
    alone = [
        stock_inputs(vlm, clip),
        stock_inputs(vlm, clip[::-1].copy(), "where is the red square moving ?"),
    ]
    longest = max(one["input_ids"].shape[1] for one in alone)
    batch: dict[str, torch.Tensor] = {}
    for name in ("input_ids", "attention_mask"):
        rows = [torch.nn.functional.pad(one[name][0], (longest - one[name].shape[1], 0)) for one in alone]
        batch[name] = torch.stack(rows)
    batch["pixel_values_videos"] = torch.cat([one["pixel_values_videos"] for one in alone])
    assert batch["attention_mask"].min() == 0
    with sp.accelerate(model, RECIPES["both"], keep_ratio=0.5):
        out = model.generate(**batch, do_sample=False, max_new_tokens=5)
        expected = [answer(model, one, max_new_tokens=5) for one in alone]
        with pytest.raises(InvalidValueError, match="num_beams above 1 would mix"):
            model.generate(**batch, num_beams=2)
    for row, ids in zip(out[:, longest:].tolist(), expected, strict=True):
        assert row[: len(ids)] == ids


def test_a_second_turn_goes_on_at_the_places_of_the_full_prompt(vlm: VideoLLM, clip: Any) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4, "return_dict_in_generate": True}
    turn = vlm.family.tokenizer("where is the big square ?", return_tensors="pt")["input_ids"]
    with sp.accelerate(model, "stride", keep_ratio=0.5), torch.no_grad():
        first = model.generate(**inputs, **settings)
        whole = torch.cat([first.sequences, turn], 1)
        second = model.generate(input_ids=whole, past_key_values=first.past_key_values, **settings)
        # a call without generate finds the places too
        cache = model(**inputs).past_key_values
        new = whole[:, inputs["input_ids"].shape[1] :]
        bare = model(input_ids=new, past_key_values=cache).logits[0, -1]
    assert torch.equal(second.sequences[:, : whole.shape[1]], whole)
    prompt = vlm.family.prompt(QUESTION, _strided(vlm, clip))
    places = torch.arange(prompt.full_tokens, whole.shape[1])[None]
    by_hand = {
        **prompt.model_inputs(),
        "input_ids": torch.cat([prompt.input_ids, new], 1),
        "position_ids": torch.cat([prompt.position_ids, places], 1),
    }
    by_hand["attention_mask"] = torch.ones_like(by_hand["input_ids"])
    with torch.no_grad():
        expected = model(**by_hand).logits[0, -1]
    torch.testing.assert_close(bare, expected, atol=1e-5, rtol=0)
    assert second.sequences[0, whole.shape[1]] == expected.argmax()


def _strided(vlm: VideoLLM, clip: Any) -> Reduction:
    encoded = vlm.family.encode(vlm.family.preprocess(list(clip)))
    return sp.reduce_tokens(encoded.features, "stride", keep_ratio=0.5)


def test_a_second_turn_above_a_cut_equals_asking_it_by_hand(vlm: VideoLLM, clip: Any) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    turn = vlm.family.tokenizer("where is the big square ?", return_tensors="pt")["input_ids"]
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 3, "return_dict_in_generate": True}
    with sp.accelerate(model, RECIPES["both"], keep_ratio=0.5), torch.no_grad():
        first = model.generate(**inputs, **settings)
        whole = torch.cat([first.sequences, turn], 1)
        second = model.generate(input_ids=whole, past_key_values=first.past_key_values, **settings)
        cache = model(**inputs).past_key_values
        logits = model(input_ids=whole[:, inputs["input_ids"].shape[1] :], past_key_values=cache).logits
        with pytest.raises(InvalidValueError, match="something new"):
            model.generate(input_ids=whole[:, :5], past_key_values=first.past_key_values)
    assert second.sequences[0, whole.shape[1]] == logits[0, -1].argmax()


KV = {
    "kv": Recipe(stages={"kv": Choice("streamingllm", {"keep_ratio": 0.5})}),
    "stores": Recipe(
        stages={"kv": Choice("streamingllm+mustafar+cskv", {"keep_ratio": 0.5, "exact_last": 4})}
    ),
    "all": Recipe(
        stages={
            "pre_llm": Choice("stride"),
            "in_llm": Choice("fastv", {"layer": 1, "keep_ratio": 0.5}),
            "kv": Choice("snapkv", {"keep_ratio": 0.5}),
        }
    ),
}


@pytest.mark.parametrize("name", KV)
def test_a_kv_stage_says_what_ask_says_and_holds_less(vlm: VideoLLM, clip: Any, name: str) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    budget: dict[str, Any] = {"keep_ratio": 0.5} if name == "all" else {}
    stock = answer(model, inputs)
    found = traces(model)
    with sp.accelerate(model, KV[name], **budget):
        out = model.generate(**inputs, do_sample=False, max_new_tokens=6, return_dict_in_generate=True)
        turn = vlm.family.tokenizer("where is the big square ?", return_tensors="pt")["input_ids"]
        whole = torch.cat([out.sequences, turn], 1)
        cache = out.past_key_values
        held = cache.layers[2].keys.shape[2]
        model.generate(input_ids=whole, past_key_values=cache, do_sample=False, max_new_tokens=2)
        with pytest.raises(InvalidValueError, match="num_beams above 1 share one cache"):
            model.generate(**inputs, num_beams=2)
    asked = vlm.ask(clip, QUESTION, recipe=KV[name], max_new_tokens=6, **budget)
    ids = out.sequences[0, inputs["input_ids"].shape[1] :]
    assert vlm.family.tokenizer.decode(ids, skip_special_tokens=True).strip() == asked.text
    assert held < 0.6 * inputs["input_ids"].shape[1]
    assert traces(model) == found
    assert answer(model, inputs) == stock


def test_a_kv_stage_that_keeps_all_changes_no_bit(vlm: VideoLLM, clip: Any) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    recipe = Recipe(stages={"kv": Choice("snapkv", {"keep_ratio": 1.0})})
    settings: dict[str, Any] = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 4}
    stock = model.generate(**inputs, do_sample=False, **settings)
    with sp.accelerate(model, recipe):
        ours = model.generate(**inputs, do_sample=False, **settings)
        with pytest.raises(InvalidTypeError, match="filled in a block with a kv method, got DynamicCache"):
            model.generate(**inputs, past_key_values=stock.past_key_values)
    assert torch.equal(ours.sequences, stock.sequences)
    assert all(torch.equal(*pair) for pair in zip(ours.logits, stock.logits, strict=True))


def test_beams_of_one_prompt(vlm: VideoLLM, clip: Any) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    with sp.accelerate(model, RECIPES["both"], keep_ratio=0.5):
        out = model.generate(**inputs, num_beams=3, num_return_sequences=2, do_sample=False, max_new_tokens=4)
    assert out.shape == (2, inputs["input_ids"].shape[1] + 4)


@pytest.mark.parametrize(
    ("recipe", "options", "error", "said"),
    [
        (
            Recipe(stages={"frames": Choice("uniform", {"num_frames": 2})}),
            {},
            RecipeError,
            "'frames'.* vlm.ask",
        ),
        (Recipe(stages={"memory": Choice("tiered")}), {}, RecipeError, "a memory of streams"),
        ("cdpruner", {"keep_ratio": 0.5}, RecipeError, "reads text_embeds of the question"),
        ("fastv", {"layer": 9}, InvalidValueError, r"before the layers \(9,\)"),
        ("fastvv", {}, LookupError, "Did you mean"),
        ("fastv", {"lair": 9}, LookupError, "Did you mean 'layer'"),
    ],
)
def test_recipes_that_cannot_act_here(
    vlm: VideoLLM, recipe: Any, options: dict[str, Any], error: type, said: str
) -> None:
    found = traces(vlm.family.model)
    with pytest.raises(error, match=said):
        sp.accelerate(vlm.family.model, recipe, **options).__enter__()
    assert traces(vlm.family.model) == found


def test_signals_of_a_pooling_head(vlm: VideoLLM, bare_vlm: VideoLLM, small_folder: Path, clip: Any) -> None:
    """Found beside the weights, or where somebody says; without one what lacks is named."""
    recipe, inputs = "fastervlm", stock_inputs(vlm, clip)
    with sp.accelerate(vlm.family.model, recipe, keep_ratio=0.5):
        ids = answer(vlm.family.model, inputs)
    asked = vlm.ask(clip, QUESTION, recipe=recipe, keep_ratio=0.5, max_new_tokens=6)
    assert vlm.family.tokenizer.decode(ids, skip_special_tokens=True).strip() == asked.text
    bare = bare_vlm.family.model
    with pytest.raises(SignalError, match="saliency"):
        sp.accelerate(bare, recipe, keep_ratio=0.5).__enter__()
    with sp.accelerate(bare, recipe, keep_ratio=0.5, pooling_head=small_folder / "pooling_head.safetensors"):
        assert answer(bare, inputs) == ids


def test_models_that_are_not_known() -> None:
    with pytest.raises(InvalidTypeError, match="must be a transformers model, got Linear"):
        sp.accelerate(torch.nn.Linear(2, 2), "fastv").__enter__()
    with pytest.raises(UnsupportedModelError, match=r"family 'qwen2'.*Supported: .*llava_onevision"):
        sp.accelerate(small_decoder(), "fastv").__enter__()


def test_calls_that_cannot_be_served(vlm: VideoLLM, clip: Any) -> None:
    model, inputs = vlm.family.model, stock_inputs(vlm, clip)
    with sp.accelerate(model, RECIPES["both"], keep_ratio=0.5):
        with pytest.raises(InvalidValueError, match="already dropped inside this model"):
            sp.accelerate(model, "stride", keep_ratio=0.5).__enter__()
        with pytest.raises(InvalidValueError, match="prefill_chunk_size=8"):
            model.generate(**inputs, prefill_chunk_size=8)
        with pytest.raises(InvalidValueError, match="65 placeholders for 49 tokens of 1 videos"):
            model.generate(**{**inputs, "pixel_values_videos": inputs["pixel_values_videos"][:, :3]})
        with pytest.raises(InvalidValueError, match="labels"):
            model(**inputs, labels=inputs["input_ids"])
