"""SpAtten's sums against numpy, and heads that stop counting inside a language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnsupportedModelError
from streamprune.in_llm.base import Decision, PromptView
from streamprune.in_llm.spatten import SpAtten, layer_sums
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import Watched, locate, masked, padded, prompt, small_decoder
from tests.in_llm.views import Array, MadeProjections, made_view, numpy_attention, text_and


def numpy_sums(layer: MadeProjections, counting: list[bool]) -> tuple[Array, Array]:
    """Attention received, and absolute outputs of each of two key heads, which serve two heads each."""
    attention = numpy_attention(layer)
    values = np.repeat(layer.all_values.double().numpy(), 2, axis=0)
    outputs = np.abs(attention @ values).sum((1, 2)).reshape(2, 2).sum(1) * counting
    received: Array = attention.reshape(2, 2, *attention.shape[1:])[counting].sum((0, 1, 2))
    return received, outputs


@pytest.mark.parametrize("counting", [[True, True], [False, True]])
def test_sums_of_a_layer(counting: list[bool]) -> None:
    layer = MadeProjections(300, seed=1)
    received, yielded = layer_sums(layer, 300, torch.tensor(counting))
    expected, expected_heads = numpy_sums(layer, counting)
    np.testing.assert_allclose(received, expected, rtol=1e-4)
    np.testing.assert_allclose(yielded, expected_heads, rtol=1e-4)
    assert float(received.sum()) == pytest.approx(300 * 2 * sum(counting), rel=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_sums_go_on_from_layer_to_layer(seed: int) -> None:
    method = SpAtten(layers=(2, 5), keep_tokens=8, head_share=0.5)
    view = made_view(seed=seed)
    first = method.decide(view)
    received, heads = numpy_sums(view.before, [True, True])  # type: ignore[arg-type]
    assert first.kept.tolist() == text_and(view, np.argsort(-received[5:29])[:16])
    best = [bool(x) for x in np.arange(2) == np.argmax(heads)]
    assert first.heads is not None
    assert first.heads.tolist() == best, "three quarters of two heads"
    rows = len(first.kept)
    after = made_view(tokens=16, seed=seed + 50, cut=1, visual_at_first=24, carried=first.carried)
    second = method.decide(after)
    more, more_heads = numpy_sums(after.before, best)  # type: ignore[arg-type]
    total = received[first.kept.numpy()] + more
    assert len(total) == rows
    assert second.kept.tolist() == text_and(after, np.argsort(-total[5:21])[:8])
    assert second.heads is not None
    assert second.heads.tolist() == best
    np.testing.assert_allclose(second.carried.heads, heads + more_heads, rtol=1e-4)


def test_heads_that_are_gone_stay_gone() -> None:
    method = SpAtten(layers=(1, 2, 3), head_share=0.5, keep_ratio=1.0)
    first = method.decide(made_view(cut=2))
    assert first.heads is not None
    again = method.decide(made_view(cut=0, seed=9, carried=first.carried))
    assert again.heads is not None
    assert again.heads.tolist() == first.heads.tolist()


def test_nothing_goes_with_full_shares() -> None:
    assert SpAtten(keep_ratio=1.0).keeps_everything(9)
    assert not SpAtten(keep_ratio=1.0, head_share=0.5).keeps_everything(9)
    decision = SpAtten(keep_ratio=1.0).decide(made_view(depth=2))
    assert decision.kept.tolist() == list(range(33))
    assert decision.heads is None
    assert SpAtten().cuts(5) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="head_share must be in"):
        SpAtten(head_share=0)


class Recorded(Watched):
    """Also the heads of every decision."""

    prunes_heads = True

    def decide(self, view: PromptView) -> Decision:
        decision = super().decide(view)
        heads.append((view.layer, decision.heads))
        return decision


heads: list[tuple[int, torch.Tensor | None]] = []


@contextmanager
def without_heads(model: Any, prompts: int) -> Iterator[None]:
    """Layers take as 0 what the heads come to that :data:`heads` leaves out."""
    handles = []
    for number, layer in enumerate(model.get_decoder().layers):
        count = torch.ones(prompts, 2)
        for place, (first, named) in enumerate(heads):
            if number >= first and named is not None:
                count[place % prompts] = named.float()

        def zeroed(module: Any, args: Any, count: torch.Tensor = count) -> Any:
            return (args[0] * count.repeat_interleave(args[0].shape[-1] // 2, 1)[:, None],)

        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(zeroed))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("keep", [0.25, 1.0])
def test_dropped_tokens_and_heads_equal_masked_ones_through_two_turns(
    implementation: str, keep: float
) -> None:
    model = small_decoder(implementation)
    batch = padded(prompt(seed=1), prompt(before=2, after=4, seed=2))
    turn = torch.tensor([[5, 6], [7, 8]])
    longer = torch.cat([batch["attention_mask"], torch.ones_like(turn)], 1)
    places = (longer.cumsum(1) - 1)[:, -2:]

    def two_turns() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            out = model(**batch)
            cache = out.past_key_values
            again = model(turn, attention_mask=longer, position_ids=places, past_key_values=cache)
        return out.logits[:, -1], again.logits

    heads.clear()
    watched = Recorded(method=SpAtten(layers=(1, 2, 3), head_share=0.5, keep_ratio=keep))
    with attach(model, watched, locate):
        got = two_turns()
    assert heads[-1][1] is not None
    gone: list[list[tuple[int, torch.Tensor]]] = [[], []]
    for place, (layer, rows) in enumerate(watched.cuts_of_rows):
        own = batch["attention_mask"][place % 2].nonzero()[:, 0]
        gone[place % 2].append((layer, own[rows]))
    with masked(model, gone), without_heads(model, 2):
        expected = two_turns()
    with masked(model, gone):
        other = two_turns()
    for mine, theirs, without in zip(got, expected, other, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
        assert float((mine - without).abs().max()) > 1e-2


def test_layers_without_an_output_projection_are_refused() -> None:
    model = small_decoder()
    attention = model.model.layers[2].self_attn
    mixer = attention.o_proj
    del attention.o_proj
    try:
        with pytest.raises(UnsupportedModelError, match=r"no part 'self_attn\.o_proj'"):
            attach(model, SpAtten(), locate).__enter__()
    finally:
        attention.o_proj = mixer
