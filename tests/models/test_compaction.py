"""Layers below a cut that forget what did not go all the way up, against the same keys masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import InLLMMethod
from streamprune.in_llm.dycoke import DyCokeInner
from streamprune.in_llm.fastv import FastV
from streamprune.in_llm.framefusion import FrameFusion
from streamprune.in_llm.lazyllm import LazyLLM
from streamprune.in_llm.lvlm_csp import LVLMCSPInner
from streamprune.in_llm.pyramiddrop import PyramidDrop
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import Watched, locate, masked, padded, prompt, small_decoder

implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
METHODS = [
    FastV(layer=2, keep_ratio=0.25),
    PyramidDrop(layers=(1, 3), keep_ratio=0.2),
    FrameFusion(similarity=1.0, keep_tokens=5),
]
methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
TURNS = [[[5], [6]], [[7, 8, 9], [9, 4, 3]], [[6], [7]]]


def turns(model: Any, batch: dict[str, torch.Tensor], later: Any = None) -> tuple[list[torch.Tensor], Any]:
    """Last logits of the prompts, and all of what follows."""
    mask = batch["attention_mask"]
    with torch.no_grad():
        out = model(**batch)
        logits = [out.logits[:, -1]]
        if later is not None:
            later()
        for turn in TURNS:
            ids = torch.tensor(turn)[: len(mask)]
            mask = torch.cat([mask, torch.ones_like(ids)], 1)
            places = (mask.cumsum(1) - 1)[:, -ids.shape[1] :]
            out = model(ids, attention_mask=mask, position_ids=places, past_key_values=out.past_key_values)
            logits.append(out.logits)
    return logits, out.past_key_values


@implementations
@methods
@pytest.mark.parametrize("count", [1, 2])
def test_what_comes_later_sees_the_same_everywhere(
    implementation: str, method: InLLMMethod, count: int
) -> None:
    model = small_decoder(implementation)
    batch = padded(*(prompt(seed=1), prompt(before=2, after=4, seed=2))[:count])
    watched = Watched(method=method, compact_below=True)
    with attach(model, watched, locate):
        got, cache = turns(model, batch)
    gone: list[list[tuple[int, torch.Tensor]]] = [[] for _ in range(count)]
    for place, (layer, rows) in enumerate(watched.cuts_of_rows):
        own = batch["attention_mask"][place % count].nonzero()[:, 0]
        gone[place % count].append((layer, own[rows]))
    dropped = sum(len(rows) for _, rows in gone[0])
    assert dropped >= 18
    assert {layer.keys.shape[2] for layer in cache.layers} == {40 - dropped}
    assert all(layer.keys.untyped_storage().nbytes() == layer.keys.nbytes for layer in cache.layers)
    assert cache.get_seq_length() == 40

    def everywhere() -> None:
        for cuts in gone:
            cuts[:] = [(0, rows) for _, rows in cuts]

    with masked(model, gone):
        expected, _ = turns(model, batch, everywhere)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@implementations
def test_a_batch_goes_on_like_its_prompts_alone(implementation: str) -> None:
    model = small_decoder(implementation)
    prompts = prompt(seed=5), prompt(before=2, after=4, seed=6)
    with attach(model, FastV(layer=3, keep_ratio=0.2, compact_below=True), locate):
        both = model.generate(**padded(*prompts), max_new_tokens=5, do_sample=False)
        alone = [model.generate(ids, max_new_tokens=5, do_sample=False) for ids in prompts]
    for together, single in zip(both, alone, strict=True):
        assert torch.equal(together[-5:], single[0, -5:])


@implementations
def test_a_second_video_and_another_block(implementation: str) -> None:
    model, ids, turn = small_decoder(implementation), prompt(), torch.tensor([[5, 6, 7]])
    method = FastV(layer=2, keep_tokens=4, compact_below=True)
    logits = []
    for apart in (False, True):
        with attach(model, method, locate), torch.no_grad():
            cache = model(ids).past_key_values
            model(ids, past_key_values=cache)
            assert {layer.keys.shape[2] for layer in cache.layers} == {2 * 15}
            if not apart:
                logits.append(model(turn, past_key_values=cache).logits)
        if apart:
            with attach(model, method, locate), torch.no_grad():
                logits.append(model(turn, past_key_values=cache).logits)
    assert torch.equal(*logits)


def test_keeping_everything_changes_no_bit() -> None:
    model, ids = small_decoder(), prompt()
    with torch.no_grad():
        expected = model(ids)
        with attach(model, FastV(keep_ratio=1.0, compact_below=True), locate):
            got = model(ids)
    assert torch.equal(got.logits, expected.logits)
    assert got.past_key_values.get_seq_length() == 35


def test_what_cannot_be_compacted_is_refused() -> None:
    for method in (DyCokeInner, LazyLLM, LVLMCSPInner):
        with pytest.raises(InvalidValueError, match="compact_below must be left out"):
            method(compact_below=True)
    with pytest.raises(TypeError, match="compact_below must be True or False"):
        FastV(compact_below=1)  # type: ignore[arg-type]
