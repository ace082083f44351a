"""Texts encoded side by side against one prompt with a mask of blocks, alone, and in another order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from streamprune.in_llm.fastv import FastV
from streamprune.models.attach import attach
from streamprune.models.parallel_text import append_in_parallel, parallel_positions
from tests.in_llm.small_decoder import GRID, locate, prompt, small_decoder

BEGINNING = prompt(before=4, after=2, seed=1)
TEXTS = [torch.tensor(ids) for ids in ([5, 6, 7, 8, 9], [11, 12], [5, 13, 14])]
LATER = torch.tensor([[21, 22, 23]])
START = BEGINNING.shape[1]
implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


def filled(model: Any) -> Any:
    with torch.no_grad():
        return model(BEGINNING).past_key_values


def later_logits(model: Any, cache: Any, behind: int) -> torch.Tensor:
    """(tokens, vocabulary) of text behind all the others."""
    position = torch.arange(behind, behind + LATER.shape[1])[None]
    mask = torch.ones(1, cache.get_seq_length() + LATER.shape[1], dtype=torch.int64)
    with torch.no_grad():
        logits: torch.Tensor = model(
            LATER, attention_mask=mask, position_ids=position, past_key_values=cache
        ).logits[0]
    return logits


def in_one_prompt(model: Any, sees_others: bool) -> tuple[Any, torch.Tensor]:
    """Cache and later logits of one prompt of all texts, with the stock model and a mask of blocks."""
    ids = torch.cat([BEGINNING[0], *TEXTS, LATER[0]])
    block = torch.cat([torch.full((len(text),), number) for number, text in enumerate(TEXTS)])
    block = torch.cat([torch.full((START,), -1), block, torch.full((LATER.shape[1],), -1)])
    position = torch.arange(START).tolist()
    for text in TEXTS:
        position += range(START, START + len(text))
    position += range(START + 5, START + 5 + LATER.shape[1])
    seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
    if not sees_others:
        seen &= (block[:, None] == block) | (block == -1) | (block[:, None] == -1)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        out = model(ids[None], attention_mask=mask, position_ids=torch.tensor([position]))
    return out.past_key_values, out.logits[0, -LATER.shape[1] :]


@implementations
def test_it_is_one_prompt_with_a_mask_of_blocks(implementation: str) -> None:
    model = small_decoder(implementation)
    expected, logits = in_one_prompt(model, sees_others=False)
    cache = filled(model)
    behind = append_in_parallel(model, cache, TEXTS, START)
    assert behind == START + 5
    got = later_logits(model, cache, behind)
    torch.testing.assert_close(got, logits, atol=1e-5, rtol=0)
    for mine, theirs in zip(cache.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.values, theirs.values, atol=1e-5, rtol=1e-5)
    _, others = in_one_prompt(model, sees_others=True)
    assert float((got - others).abs().max()) > 1e-3


@implementations
def test_each_text_is_what_it_is_alone_wherever_it_comes(implementation: str) -> None:
    model, order = small_decoder(implementation), [2, 0, 1]
    cache = filled(model)
    append_in_parallel(model, cache, [TEXTS[number] for number in order], START)
    first = START
    for number in order:
        alone = filled(model)
        assert append_in_parallel(model, alone, [TEXTS[number]], START) == START + len(TEXTS[number])
        own = slice(first, first + len(TEXTS[number]))
        for mine, theirs in zip(cache.layers, alone.layers, strict=True):
            assert torch.equal(mine.keys[:, :, own], theirs.keys[:, :, START:])
            assert torch.equal(mine.values[:, :, own], theirs.values[:, :, START:])
        first = own.stop
    assert cache.get_seq_length() == first


def test_one_text_is_an_ordinary_turn() -> None:
    model = small_decoder()
    cache = filled(model)
    behind = append_in_parallel(model, cache, TEXTS[:1], START)
    with torch.no_grad():
        whole = model(torch.cat([BEGINNING, TEXTS[0][None], LATER], 1)).logits[0, -3:]
    torch.testing.assert_close(later_logits(model, cache, behind), whole, atol=1e-5, rtol=0)


def test_generate_goes_on_from_there() -> None:
    model = small_decoder()
    cache = filled(model)
    behind = append_in_parallel(model, cache, TEXTS, START)
    parallel, _ = parallel_positions(START, [len(text) for text in TEXTS])
    ids = torch.cat([BEGINNING[0], *TEXTS, LATER[0]])[None]
    position = torch.cat([torch.arange(START), parallel, torch.arange(behind, behind + 3)])[None]
    again = filled(model)
    append_in_parallel(model, again, TEXTS, START)
    tokens = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        position_ids=position,
        past_key_values=cache,
        max_new_tokens=4,
        do_sample=False,
    )[0, -4:]
    step, expected = LATER, []
    for _ in range(4):
        where = torch.arange(behind, behind + step.shape[1])[None]
        with torch.no_grad():
            out = model(step, position_ids=where, past_key_values=again)
        behind += step.shape[1]
        step = out.logits[:, -1].argmax(-1, keepdim=True)
        expected.append(int(step))
    assert tokens.tolist() == expected


@implementations
def test_upper_layers_see_what_is_left_in_them(implementation: str) -> None:
    model, method = small_decoder(implementation), FastV(keep_tokens=6)
    with attach(model, method, locate):
        cache = filled(model)
        behind = append_in_parallel(model, cache, TEXTS, START)
        held = [layer.keys.shape[2] for layer in cache.layers]
        together = later_logits(model, cache, behind)
        left = filled(model)
        append_in_parallel(model, left, TEXTS[:1], START)
        single = filled(model)
        with torch.no_grad():
            model(TEXTS[0][None], past_key_values=single, position_ids=torch.arange(START, START + 5)[None])
    assert held == [START + 10] * 2 + [START + 10 - GRID.tokens + 6] * 2
    assert bool(together.isfinite().all())
    for mine, theirs in zip(left.layers, single.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=1e-5)


def test_a_failure_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_decoder()
    cache = filled(model)
    before = [(layer.keys, layer.values) for layer in cache.layers]
    with pytest.raises(IndexError):
        append_in_parallel(model, cache, [TEXTS[0], torch.tensor([10**6])], START)
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert layer.keys is keys
        assert layer.values is values


def test_a_family_with_three_axes_of_positions(tmp_path: Path) -> None:
    from streamprune.pipelines.offline import load
    from tests.models.test_families import SAVE

    model = load(SAVE["qwen2_5_vl"](tmp_path)).family.model
    ids = torch.arange(5, 15)[None]
    cache = model(ids, use_cache=True).past_key_values
    behind = append_in_parallel(model, cache, TEXTS[:1], 10)
    assert behind == 15
    whole = model(torch.cat([ids, TEXTS[0][None]], 1), use_cache=True).past_key_values
    for mine, theirs in zip(cache.layers, whole.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-5, rtol=1e-5)


def test_positions_by_hand() -> None:
    positions, behind = parallel_positions(7, [2, 3, 1])
    assert positions.tolist() == [7, 8, 7, 8, 9, 7]
    assert behind == 10


def test_what_cannot_be_added_to() -> None:
    from transformers import DynamicCache, StaticCache

    model = small_decoder()
    with pytest.raises(ValueError, match="cache must hold what stands before"):
        append_in_parallel(model, DynamicCache(), TEXTS, START)
    with pytest.raises(TypeError, match="got StaticCache"):
        append_in_parallel(model, StaticCache(config=model.config, max_cache_len=9), TEXTS, START)
    with torch.no_grad():
        two = model(BEGINNING.repeat(2, 1)).past_key_values
    with pytest.raises(ValueError, match="must hold one prompt, got 2"):
        append_in_parallel(model, two, TEXTS, START)
    with pytest.raises(ValueError, match="sizes must be one number from 1"):
        append_in_parallel(model, filled(model), [], START)
    with pytest.raises(ValueError, match="texts must be"):
        append_in_parallel(model, filled(model), [TEXTS[0][None]], START)
