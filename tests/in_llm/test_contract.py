"""What every in-LLM method promises, inside a real language model."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import pytest
import torch

from streamprune.models.attach import attach
from streamprune.registry import list_methods
from tests.in_llm.small_decoder import GRID, LAYERS, Watched, locate, masked, padded, prompt, small_decoder
from tests.in_llm.table import ROWS, Row

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
dropping = pytest.mark.parametrize(
    "row", [row for row in ROWS if not (row.merges or row.decodes or row.returns)], ids=lambda row: row.id
)
shortening = pytest.mark.parametrize("row", [row for row in ROWS if not row.decodes], ids=lambda row: row.id)
implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
TURN = torch.tensor([[7, 8, 9]])


def answer(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every logit of the prompt, and three greedy tokens."""
    with torch.no_grad():
        logits = model(ids).logits
    return logits, model.generate(ids, max_new_tokens=3, do_sample=False)


@lru_cache
def stock(implementation: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of the model as it is."""
    return answer(small_decoder(implementation, dtype), prompt())


def test_every_method_has_a_row() -> None:
    assert {row.name for row in ROWS} == {info.name for info in list_methods("in_llm")}


@rows
@implementations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeping_everything_changes_no_bit(row: Row, implementation: str, dtype: torch.dtype) -> None:
    logits, tokens = stock(implementation, dtype)
    model = small_decoder(implementation, dtype)
    method = row.build(keep_ratio=1.0) if dtype == torch.float32 else row.build(keep_tokens=GRID.tokens)
    with attach(model, method, locate):
        new_logits, new_tokens = answer(model, prompt())
    assert torch.equal(new_logits, logits)
    assert torch.equal(new_tokens, tokens)


@shortening
def test_the_upper_layers_hold_what_the_budget_says(row: Row) -> None:
    model, ids = small_decoder(), prompt()
    text = ids.shape[1] - GRID.tokens
    for keep in (12, 3):
        method = row.build(keep_tokens=keep)
        with attach(model, method, locate), torch.no_grad():
            cache = model(ids).past_key_values
        held = [layer.keys.shape[2] for layer in cache.layers]
        cuts = method.cuts(LAYERS)
        assert held[: cuts[0]] == [ids.shape[1]] * cuts[0]
        assert held == sorted(held, reverse=True) or row.returns
        assert max(keep, row.floor) == held[-1] - text


@rows
@implementations
def test_the_same_prompt_gives_the_same_tokens_with_and_without_a_cache(
    row: Row, implementation: str
) -> None:
    model, ids = small_decoder(implementation), prompt(seed=1)
    with attach(model, row.build(keep_ratio=0.25), locate):
        first = model.generate(ids, max_new_tokens=3, do_sample=False)
        again = model.generate(ids, max_new_tokens=3, do_sample=False)
        with torch.no_grad():
            step = model(ids, use_cache=False).logits[:, -1].argmax(-1)
    assert torch.equal(first, again)
    assert first[0, ids.shape[1]] == step[0]


@dropping
@implementations
def test_dropping_equals_masking_through_two_turns(row: Row, implementation: str) -> None:
    model, ids = small_decoder(implementation), prompt(seed=2)
    watched = Watched(method=row.build(keep_ratio=0.25))
    with attach(model, watched, locate), torch.no_grad():
        out = model(ids)
        got = [out.logits[:, -1]]
        for turn in (torch.tensor([[5]]), TURN, torch.tensor([[6]])):
            position = torch.arange(turn.shape[1])[None] + out.past_key_values.get_seq_length()
            out = model(turn, past_key_values=out.past_key_values, position_ids=position)
            got.append(out.logits[0])
    assert sum(len(gone) for _, gone in watched.cuts_of_rows) > 10
    with masked(model, [watched.cuts_of_rows]), torch.no_grad():
        out = model(ids)
        expected = [out.logits[:, -1]]
        for turn in (torch.tensor([[5]]), TURN, torch.tensor([[6]])):
            out = model(turn, past_key_values=out.past_key_values)
            expected.append(out.logits[0])
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@dropping
@implementations
@pytest.mark.parametrize("left", [True, False])
def test_dropping_equals_masking_in_a_batch_with_padding(row: Row, implementation: str, left: bool) -> None:
    model = small_decoder(implementation)
    # the second prompt is shorter and its decision another
    batch = padded(prompt(seed=3), prompt(before=2, after=4, seed=4), left=left)
    watched = Watched(method=row.build(keep_ratio=0.25))
    with attach(model, watched, locate), torch.no_grad():
        got = model(**batch).logits
    by_prompt = _by_prompt(watched, batch["attention_mask"])
    with masked(model, by_prompt), torch.no_grad():
        expected = model(**batch).logits
    for number, valid in enumerate(batch["attention_mask"].bool()):
        gone = torch.cat([rows for _, rows in by_prompt[number]])
        kept = torch.isin(valid.nonzero()[:, 0], gone, invert=True)
        mine = got[number]
        mine = mine[-int(kept.sum()) :] if left else mine[: int(kept.sum())]
        torch.testing.assert_close(mine, expected[number][valid][kept], atol=1e-5, rtol=0)


@dropping
@implementations
def test_a_padded_batch_goes_on_like_its_prompts_alone(row: Row, implementation: str) -> None:
    model = small_decoder(implementation)
    prompts = prompt(seed=5), prompt(before=2, after=4, seed=6)
    with attach(model, row.build(keep_ratio=0.25), locate):
        both = model.generate(**padded(*prompts), max_new_tokens=4, do_sample=False)
        alone = [model.generate(ids, max_new_tokens=4, do_sample=False) for ids in prompts]
    for together, single in zip(both, alone, strict=True):
        assert torch.equal(together[-4:], single[0, -4:])


def _by_prompt(watched: Watched, mask: torch.Tensor) -> list[list[tuple[int, torch.Tensor]]]:
    """The decisions of each prompt, their rows counted with the padding; decisions came prompt by prompt."""
    found: list[list[tuple[int, torch.Tensor]]] = [[] for _ in mask]
    places = [row.nonzero()[:, 0] for row in mask]
    for (layer, gone), number in zip(watched.cuts_of_rows, itertools.cycle(range(len(mask)))):
        found[number].append((layer, places[number][gone]))
    return found
