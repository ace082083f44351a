"""LVLM_CSP: which tokens go where, and that they come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision
from streamprune.in_llm.lvlm_csp import LVLMCSPInner, every_nth
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import VISUAL, Watched, locate, padded, prompt, small_decoder
from tests.in_llm.views import made_view

implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


def test_every_nth() -> None:
    assert every_nth(10, 3).tolist() == [0, 3, 6]
    assert every_nth(7, 7).tolist() == list(range(7))


def test_the_three_ranges() -> None:
    method = LVLMCSPInner(keep_tokens=5, coarse_share=0.25)
    assert method.cuts(32) == (0, 16, 24)
    assert method.cuts(3) == (0, 1, 2)
    first = method.decide(made_view(layer=0, cut=0))
    assert first.aside
    assert first.kept.tolist() == [*range(5), *range(5, 29, 4), *range(29, 33)]
    back = method.decide(made_view(tokens=6, cut=1, waiting=18))
    assert back.back
    assert back.kept.tolist() == list(range(33))
    view = made_view(cut=2)
    scores = view.before.attention(view.last)[:, -1, view.visual].mean(0)
    best = scores.argsort(descending=True)[:5]
    assert method.decide(view).kept.tolist() == view.kept_with_text(best).tolist()


@contextmanager
def as_published(model: Any, coarse: list[torch.Tensor], last: list[torch.Tensor]) -> Iterator[None]:
    """Nothing is dropped: layer 0 does not see ``coarse``, which enter layer 1 as they entered layer 0, and
    layers from 3 on do not see ``last``; one list of columns a prompt."""
    now: dict[str, Any] = {}

    def before_decoder(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        now["padding"] = kwargs.get("attention_mask")

    def hook(number: int) -> Any:
        def before_layer(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            states = args[0].clone()
            held = kwargs["past_key_values"].get_seq_length(number)
            rows = states.shape[1]
            query = torch.arange(held, held + rows)[:, None]
            key = torch.arange(held + rows)
            seen = (key <= query)[None, None].repeat(len(states), 1, 1, 1)
            if now["padding"] is not None:
                seen &= now["padding"].bool()[:, None, None, :]
            for row in range(len(states)):
                if number == 0:
                    seen[row, :, :, coarse[row]] = False
                    now["entered"] = states
                if number == 1 and held == 0:
                    states[row, coarse[row]] = now["entered"][row, coarse[row]]
                if number == 3:
                    seen[row, :, :, last[row]] = False
            seen |= key == query
            mask = torch.zeros_like(seen, dtype=states.dtype).masked_fill(~seen, -torch.inf)
            return (states, *args[1:]), {**kwargs, "attention_mask": mask}

        return before_layer

    decoder = model.get_decoder()
    handles = [decoder.register_forward_pre_hook(before_decoder, with_kwargs=True)]
    handles += [
        layer.register_forward_pre_hook(hook(number), with_kwargs=True)
        for number, layer in enumerate(decoder.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@implementations
@pytest.mark.parametrize("left", [True, False])
def test_tokens_come_back_as_they_were(implementation: str, left: bool) -> None:
    model = small_decoder(implementation)
    batch = padded(prompt(seed=1), prompt(before=2, after=4, seed=2), left=left)
    method = LVLMCSPInner(layers=(1, 3), coarse_share=0.25, keep_tokens=6)
    chosen: list[torch.Tensor] = []

    class Recorded(LVLMCSPInner):
        def decide(self, view: Any) -> Decision:
            decision = super().decide(view)
            if view.cut == 2:
                chosen.append(decision.kept)
            return decision

    turn = torch.tensor([[5, 6, 7], [8, 9, 4]])
    longer = torch.cat([batch["attention_mask"], torch.ones_like(turn)], 1)
    places = (longer.cumsum(1) - 1)[:, -3:]

    def two_turns() -> tuple[torch.Tensor, torch.Tensor, Any]:
        with torch.no_grad():
            out = model(**batch)
            cache = out.past_key_values
            again = model(turn, attention_mask=longer, position_ids=places, past_key_values=cache)
        return out.logits, again.logits, cache

    recorded = Recorded(layers=method.layers, coarse_share=0.25, keep_tokens=6)
    with attach(model, recorded, locate):
        first, second, cache = two_turns()
    assert [layer.keys.shape[2] - 3 for layer in cache.layers] == [17, 35, 35, 17]
    coarse, last, ends = [], [], []
    for number, row in enumerate(batch["input_ids"]):
        own = batch["attention_mask"][number].nonzero()[:, 0]
        visual = (row == VISUAL).nonzero()[:, 0]
        coarse.append(visual[torch.arange(24) % 4 > 0])
        last.append(own[torch.isin(torch.arange(len(own)), chosen[number], invert=True)])
        ends.append(int(own[-1]))
    with as_published(model, coarse, last):
        expected, expected_second, _ = two_turns()
    for number, end in enumerate(ends):
        # prompts of unequal length are filled up on the side of their padding
        place = -1 if left else len(chosen[number]) - 1
        torch.testing.assert_close(first[number, place], expected[number, end], atol=1e-5, rtol=0)
    torch.testing.assert_close(second, expected_second, atol=1e-5, rtol=0)


@implementations
def test_a_cache_goes_on_in_another_block(implementation: str) -> None:
    model, ids, turn = small_decoder(implementation), prompt(), torch.tensor([[5, 6, 7]])
    method = LVLMCSPInner(layers=(1, 3), keep_tokens=6)
    logits = []
    for apart in (False, True):
        with attach(model, method, locate), torch.no_grad():
            cache = model(ids).past_key_values
            if not apart:
                logits.append(model(turn, past_key_values=cache).logits)
        if apart:
            with attach(model, method, locate), torch.no_grad():
                logits.append(model(turn, past_key_values=cache).logits)
    assert torch.equal(*logits)


def test_options_that_cannot_be_meant() -> None:
    with pytest.raises(InvalidValueError, match="layers must be two numbers"):
        LVLMCSPInner(layers=(3,))
    with pytest.raises(ValueError, match="coarse_share must be in"):
        LVLMCSPInner(coarse_share=0)
    with attach(small_decoder(), Watched(method=LVLMCSPInner(keep_ratio=1.0)), locate) as counted:
        small_decoder()(prompt())
    assert counted.tokens(35) is None
