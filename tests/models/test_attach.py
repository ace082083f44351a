"""Hooks inside a language model: what they refuse, and that they leave no trace."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from streamprune.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.in_llm.fastv import FastV
from streamprune.in_llm.pyramiddrop import PyramidDrop
from streamprune.models.attach import attach
from streamprune.models.prompt_rows import VisualRows
from tests.in_llm.small_decoder import Watched, locate, masked, padded, prompt, small_decoder

HALF = FastV(keep_ratio=0.5)


def traces(model: Any) -> dict[str, Any]:
    """All that a hook or an attribute could be found in."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, dict):
                found[f"{name}.{attribute}"] = list(value)
            else:
                found[f"{name}.{attribute}"] = value if isinstance(value, (str, int, float)) else id(value)
    return found


def states(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_states(model: Any, before: dict[str, torch.Tensor]) -> bool:
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails: bool) -> None:
    model, ids = small_decoder(), prompt()
    found, weights = traces(model), states(model)
    before = model.generate(ids, max_new_tokens=3, do_sample=False)
    try:
        with attach(model, HALF, locate):
            inside = model.generate(ids, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
            assert (
                inside.past_key_values.layers[3].keys.shape[2]
                < inside.past_key_values.layers[1].keys.shape[2]
            )
            if fails:
                raise KeyError("of the user's")
    except KeyError:
        assert fails
    assert traces(model) == found
    assert same_states(model, weights)
    assert torch.equal(model.generate(ids, max_new_tokens=3, do_sample=False), before)


class Breaks(FastV):
    def decide(self, view: PromptView) -> Decision:
        raise ArithmeticError("in the method")


def test_a_method_that_fails_leaves_the_model_as_it_was() -> None:
    model, ids = small_decoder(), prompt()
    found = traces(model)
    with pytest.raises(ArithmeticError), attach(model, Breaks(), locate):
        model(ids)
    assert traces(model) == found
    with attach(model, HALF, locate), torch.no_grad():
        assert model(ids).logits.shape[1] == ids.shape[1] - 12


def test_a_block_in_a_block_is_refused() -> None:
    model, ids = small_decoder(), prompt()
    with attach(model, HALF, locate):
        again = attach(model, FastV(layer=1), locate)
        with pytest.raises(InvalidValueError, match="already dropped inside this model"):
            again.__enter__()
        with torch.no_grad():
            assert model(ids).past_key_values.layers[1].keys.shape[2] == ids.shape[1]
    with attach(model, HALF, locate):
        pass


def test_threads_do_not_mix_their_prompts() -> None:
    model = small_decoder()
    prompts = [prompt(seed=seed, before=5 + seed) for seed in range(4)]
    results: dict[int, torch.Tensor] = {}
    with attach(model, PyramidDrop(), locate):
        alone = [model.generate(ids, max_new_tokens=6, do_sample=False) for ids in prompts]

        def ask(number: int) -> None:
            results[number] = model.generate(prompts[number], max_new_tokens=6, do_sample=False)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, expected in enumerate(alone):
        assert torch.equal(results[number], expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_beams_of_a_padded_batch_equal_beams_alone(implementation: str) -> None:
    model = small_decoder(implementation)
    prompts = prompt(seed=1), prompt(before=2, after=4, seed=2)
    settings: dict[str, Any] = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False}
    with attach(model, HALF, locate):
        both = model.generate(**padded(*prompts), **settings)
        for row, ids in zip(both, prompts, strict=True):
            assert torch.equal(row[-4:], model.generate(ids, **settings)[0, -4:])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_cropped_cache_goes_on_like_one_that_never_was_longer(implementation: str) -> None:
    model, batch = small_decoder(implementation), padded(prompt(seed=1), prompt(before=2, after=4, seed=2))
    mask = batch["attention_mask"]
    turn = torch.tensor([[5, 6], [7, 8]])
    longer = torch.cat([mask, torch.ones(2, 2, dtype=mask.dtype)], 1)
    position = (longer.cumsum(1) - 1)[:, -2:]
    with attach(model, HALF, locate), torch.no_grad():
        cache = model(**batch).past_key_values
        once = model(turn, attention_mask=longer, position_ids=position, past_key_values=cache).logits
        cache.crop(-2)
        again = model(turn, attention_mask=longer, position_ids=position, past_key_values=cache).logits
    assert torch.equal(once, again)


def test_a_cache_goes_on_in_another_block() -> None:
    model, ids, turn = small_decoder("eager"), prompt(), torch.tensor([[5, 6, 7]])
    logits = []
    for apart in (False, True):
        with attach(model, HALF, locate), torch.no_grad():
            cache = model(ids).past_key_values
            if not apart:
                logits.append(model(turn, past_key_values=cache).logits)
        if apart:
            with attach(model, HALF, locate), torch.no_grad():
                logits.append(model(turn, past_key_values=cache).logits)
    assert torch.equal(*logits)


def test_a_video_that_comes_in_a_later_turn_is_cut_there() -> None:
    model, text, ids = small_decoder(), torch.tensor([[9, 8, 7]]), prompt()
    watched = Watched(method=HALF)
    with attach(model, watched, locate), torch.no_grad():
        cache = model(text).past_key_values
        assert watched.cuts_of_rows == []
        model(ids, past_key_values=cache)
    assert [layer.keys.shape[2] for layer in cache.layers] == [38, 38, 26, 26]


class Loses(FastV):
    def decide(self, view: PromptView) -> Decision:
        return Decision(torch.arange(view.rows - 1))


class Forgets(FastV):
    def decide(self, view: PromptView) -> Decision:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        (FastV(layer=4), InvalidValueError, r"before the layers \(4,\): this model has 4"),
        (PyramidDrop(layers=(2, 9)), InvalidValueError, r"layers \(2, 9\)"),
        (Loses(), InvalidValueError, "hold the last one"),
        (Forgets(), InvalidTypeError, "decide must return a Decision, got NoneType"),
    ],
)
def test_methods_that_cannot_be_meant_are_refused(method: InLLMMethod, error: type, said: str) -> None:
    model = small_decoder()
    with pytest.raises(error, match=said), attach(model, method, locate):
        model(prompt())


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"inputs_embeds": torch.zeros(1, 4, 64)}, InvalidValueError, "input_ids must tell"),
        ({"input_ids": prompt(), "labels": prompt()}, InvalidValueError, "labels cannot be given"),
        (
            {"input_ids": prompt(), "attention_mask": torch.ones(1, 1, 35, 35, dtype=torch.bool)},
            InvalidValueError,
            r"attention_mask None or \(batch, tokens\), got \(1, 1, 35, 35\)",
        ),
    ],
)
def test_calls_that_cannot_be_served_are_refused(given: dict[str, Any], error: type, said: str) -> None:
    model = small_decoder()
    with attach(model, HALF, locate), pytest.raises(error, match=said):
        model(**given)


def test_a_cache_of_fixed_size_is_refused() -> None:
    model = small_decoder()
    with attach(model, HALF, locate), pytest.raises(InvalidTypeError, match="got StaticCache"):
        model.generate(prompt(), max_new_tokens=2, cache_implementation="static", disable_compile=True)


def test_layers_that_cannot_hold_fewer_tokens_are_refused() -> None:
    kinds = ["full_attention", "sliding_attention"]
    config = Qwen2Config(
        vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=True, sliding_window=8, layer_types=kinds,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    with pytest.raises(UnsupportedModelError, match="layer 1 is of the kind 'sliding_attention'"):
        attach(model, FastV(layer=1), locate).__enter__()
    small = small_decoder()
    try:
        small.config._attn_implementation = "flex_attention"
        with pytest.raises(UnsupportedModelError, match="attn_implementation='flex_attention'"):
            attach(small, HALF, locate).__enter__()
    finally:
        small.config._attn_implementation = "sdpa"


def test_unknown_padding_is_refused() -> None:
    model, batch = small_decoder(), padded(prompt(seed=1), prompt(before=2, seed=2))
    longer = torch.cat([batch["attention_mask"], torch.ones(2, 1, dtype=torch.int64)], 1)
    with attach(model, HALF, locate), torch.no_grad():
        cache = model(**batch).past_key_values
    with attach(model, HALF, locate), pytest.raises(InvalidValueError, match="kept track of its padding"):
        model(torch.tensor([[5], [6]]), attention_mask=longer, past_key_values=cache)


def test_text_alone_goes_through_untouched() -> None:
    model, ids = small_decoder(), torch.tensor([[4, 5, 6, 7]])
    with torch.no_grad():
        before = model(ids, past_key_values=DynamicCache()).logits
        with attach(model, HALF, locate):
            assert torch.equal(model(ids, past_key_values=DynamicCache()).logits, before)


def test_a_prompt_without_a_video_beside_one_with_keeps_all_of_itself() -> None:
    model = small_decoder()
    text = torch.tensor([[9, 8, 7, 6]])
    batch = padded(prompt(), text)
    with torch.no_grad():
        expected = model(text).logits
        with attach(model, HALF, locate):
            got = model(**batch).logits
    torch.testing.assert_close(got[1, -4:], expected[0], atol=1e-5, rtol=0)


def test_visual_rows_name_the_rows_of_the_call() -> None:
    found = locate(prompt(before=2, after=1))
    assert isinstance(found[0], VisualRows)
    assert found[0].rows.tolist() == list(range(2, 26))


class KeepsAll(FastV):
    """Decides for everything, and counts how often."""

    def decide(self, view: PromptView) -> Decision:
        return Decision(torch.arange(view.rows), None, 1 + (view.carried or 0))

    def cuts(self, depth: int) -> tuple[int, ...]:
        return 1, 3


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_deciding_for_everything_changes_no_bit(implementation: str) -> None:
    model, batch = small_decoder(implementation), padded(prompt(seed=1), prompt(before=2, seed=2))
    watched = Watched(method=KeepsAll())
    with torch.no_grad():
        expected = model(**batch).logits
        with attach(model, watched, locate) as counted:
            assert torch.equal(model(**batch).logits, expected)
    assert [len(gone) for _, gone in watched.cuts_of_rows] == [0, 0, 0, 0]
    assert counted.tokens(99) is None


@dataclass(frozen=True, kw_only=True)
class ThinsOut(InLLMMethod):
    """Every third visual token goes on into layer 0."""

    first_cut = 0

    def cuts(self, depth: int) -> tuple[int, ...]:
        return (0,)

    def decide(self, view: PromptView) -> Decision:
        return Decision(view.kept_with_text(torch.arange(0, len(view.visual), 3)))


class AsksBelow(ThinsOut):
    def decide(self, view: PromptView) -> Decision:
        return Decision(view.before.attention(view.last)[0, 0].long())


def test_there_is_nothing_below_layer_0() -> None:
    with (
        attach(small_decoder(), AsksBelow(), locate),
        pytest.raises(InvalidValueError, match="there is none"),
    ):
        small_decoder()(prompt())


@pytest.mark.parametrize("cache", [DynamicCache, lambda: DynamicCache(config=small_decoder().config)])
def test_tokens_dropped_before_layer_0_were_seen(cache: Callable[[], DynamicCache]) -> None:
    model, ids, held = small_decoder(), prompt(), cache()
    with attach(model, ThinsOut(), locate), torch.no_grad():
        model(ids, past_key_values=held)
        assert [layer.keys.shape[2] for layer in held.layers] == [19] * 4
        assert held.get_seq_length() == ids.shape[1]
        turn = torch.tensor([[5, 6]])
        held_after = model(turn, past_key_values=held).logits
        held.crop(-2)
        assert held.get_seq_length() == ids.shape[1]
        assert torch.equal(model(turn, past_key_values=held).logits, held_after)
    held.reset()
    assert held.get_seq_length() == 0


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_conversation_goes_on_where_tokens_were_dropped_before_layer_0(implementation: str) -> None:
    model, batch = small_decoder(implementation), padded(prompt(seed=1), prompt(before=2, after=4, seed=2))
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    turn = torch.tensor([[5, 6], [7, 8]])
    watched = Watched(method=ThinsOut())
    tokens = []
    for inside in (
        attach(model, watched, locate),
        masked(model, [[(0, rows)] for rows in _dropped(batch["input_ids"])]),
    ):
        with inside:
            first = model.generate(**batch, **settings)
            ids = torch.cat([first.sequences, turn], 1)
            mask = torch.cat([batch["attention_mask"], torch.ones(2, 5, dtype=torch.int64)], 1)
            cache = first.past_key_values
            again = model.generate(ids, attention_mask=mask, past_key_values=cache, **settings)
            tokens.append(again.sequences)
    assert torch.equal(*tokens)


def _dropped(batch: torch.Tensor) -> list[torch.Tensor]:
    """Columns of the visual tokens that :class:`ThinsOut` drops."""
    found = [(ids == 1).nonzero()[:, 0] for ids in batch]
    return [rows[torch.arange(len(rows)) % 3 > 0] for rows in found]
