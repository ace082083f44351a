"""LazyLLM against a language model that computes token by token, and its schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.in_llm.lazyllm import LazyLLM
from streamprune.models.attach import attach
from streamprune.ops.rotary import rotate
from tests.in_llm.small_decoder import LAYERS, locate, padded, prompt, small_decoder
from tests.in_llm.views import made_view

implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])
TURNS = [[5], [7, 8, 9], [6], [11], [4]]


class TokenByToken:
    """A conversation in which every layer computes single tokens, each at most once.

    Attributes:
        computed: (layer, token) in the order they were computed.
        came_back: how many tokens a later call brought up.
    """

    def __init__(self, model: Any, method: LazyLLM) -> None:
        self.model, self.method = model, method
        self.cuts = method.cuts(LAYERS)
        self.seen = 0
        self.visual: list[int] = []
        self.inputs: list[dict[int, torch.Tensor]] = [{} for _ in range(LAYERS + 1)]
        self.entries: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = [{} for _ in range(LAYERS)]
        self.queries: list[dict[int, torch.Tensor]] = [{} for _ in range(LAYERS)]
        self.computed: list[tuple[int, int]] = []
        self.came_back = 0

    @torch.no_grad()
    def call(self, ids: list[int]) -> torch.Tensor:
        """Logits behind the last token."""
        new = range(self.seen, self.seen + len(ids))
        self.visual += [number for number, token in zip(new, ids, strict=True) if token == 1]
        embeds = self.model.model.embed_tokens(torch.tensor(ids))
        self.inputs[0].update(dict(zip(new, embeds, strict=True)))
        alive = list(range(new.stop))
        for number in range(LAYERS):
            if number in self.cuts:
                alive = self.chosen(number, alive, new.stop - 1)
            for token in alive:
                if token not in self.entries[number]:
                    self.came_back += token < self.seen
                    self.compute(number, token, [other for other in alive if other <= token])
        self.seen = new.stop
        last: torch.Tensor = self.model.lm_head(self.model.model.norm(self.inputs[-1][self.seen - 1]))
        return last

    def attention(self, number: int, token: int, others: list[int]) -> torch.Tensor:
        """(heads, others)."""
        keys = torch.stack([self.entries[number][other][0] for other in others])
        keys = keys.repeat_interleave(2, 1)
        scores = torch.einsum("hd,nhd->hn", self.queries[number][token], keys) * 16**-0.5
        return scores.softmax(-1)

    def chosen(self, number: int, alive: list[int], last: int) -> list[int]:
        received = self.attention(number - 1, last, alive).mean(0)
        at_hand = [place for place, token in enumerate(alive) if token in self.visual]
        cut = self.cuts.index(number)
        stay = self.method.choose(received[at_hand], cut, len(self.cuts), len(self.visual))
        kept = {alive[at_hand[place]] for place in stay.tolist()}
        return [token for token in alive if token not in self.visual or token in kept]

    def compute(self, number: int, token: int, others: list[int]) -> None:
        layer, state = self.model.model.layers[number], self.inputs[number][token]
        own = layer.self_attn
        normed = layer.input_layernorm(state)
        query, key, value = (
            projected(normed).unflatten(-1, (-1, 16)) for projected in (own.q_proj, own.k_proj, own.v_proj)
        )
        cos, sin = self.model.model.rotary_emb(state[None, None], torch.tensor([[token]]))
        self.queries[number][token] = rotate(query, cos[0], sin[0])
        self.entries[number][token] = rotate(key, cos[0], sin[0]), value
        values = torch.stack([self.entries[number][other][1] for other in others]).repeat_interleave(2, 1)
        mixed = torch.einsum("hn,nhd->hd", self.attention(number, token, others), values)
        state = state + own.o_proj(mixed.flatten())
        self.inputs[number + 1][token] = state + layer.mlp(layer.post_attention_layernorm(state))
        self.computed.append((number, token))


def conversation(model: Any, ids: torch.Tensor, cache: Any) -> tuple[list[torch.Tensor], Any]:
    logits = []
    with torch.no_grad():
        for turn in (ids, *(torch.tensor([turn]) for turn in TURNS)):
            held = cache.get_seq_length()
            position = torch.arange(held, held + turn.shape[1])[None]
            out = model(turn, past_key_values=cache, position_ids=position).logits
            logits.append(out[0, -1])
            if held:
                assert out.shape[1] == turn.shape[1], "what came back is nobody's to see"
    return logits, cache


@implementations
@pytest.mark.parametrize("method", [LazyLLM(keep_ratio=0.25), LazyLLM(layers=(1, 3), keep_tokens=3)])
def test_what_was_dropped_comes_back_as_it_was(implementation: str, method: LazyLLM) -> None:
    model, ids = small_decoder(implementation), prompt(seed=2)
    with attach(model, method, locate):
        logits, cache = conversation(model, ids, DynamicCache())
    reference = TokenByToken(model, method)
    for mine, turn in zip(logits, (ids[0].tolist(), *TURNS), strict=True):
        torch.testing.assert_close(mine, reference.call(turn), atol=1e-5, rtol=0)
    assert reference.came_back > 3
    assert len(set(reference.computed)) == len(reference.computed)
    for number, layer in enumerate(cache.layers):
        assert layer.keys.shape[2] == len(reference.entries[number])


@implementations
def test_a_padded_batch_goes_on_like_its_prompts_alone(implementation: str) -> None:
    model = small_decoder(implementation)
    prompts = prompt(seed=5), prompt(before=2, after=4, seed=6)
    with attach(model, LazyLLM(keep_ratio=0.2), locate):
        both = model.generate(**padded(*prompts), max_new_tokens=8, do_sample=False)
        alone = [model.generate(ids, max_new_tokens=8, do_sample=False) for ids in prompts]
    for together, single in zip(both, alone, strict=True):
        assert torch.equal(together[-8:], single[0, -8:])


def test_a_video_in_a_later_turn_is_thinned_out_with_the_first() -> None:
    model, ids = small_decoder(), prompt(seed=7)
    method = LazyLLM(layers=(2,), keep_tokens=6)
    reference = TokenByToken(model, method)
    cache = DynamicCache()
    with attach(model, method, locate), torch.no_grad():
        for turn in (ids, ids, torch.tensor([[5]])):
            got = model(turn, past_key_values=cache).logits[0, -1]
            torch.testing.assert_close(got, reference.call(turn[0].tolist()), atol=1e-5, rtol=0)


def test_the_figure_of_the_paper() -> None:
    method = LazyLLM()
    assert method.cuts(32) == (9, 19, 28)
    assert [method.count(cut, 3, 100) for cut in range(3)] == [70, 40, 10]
    assert method.choose(torch.arange(10) / 10, 0, 3, 10).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert LazyLLM().cuts(2) == (1,)
    assert LazyLLM(layers=(3, 5)).cuts(9) == (3, 5)
    assert [LazyLLM(keep_ratio=0.5).count(cut, 2, 9) for cut in range(2)] == [6, 4]


def test_a_prompt_alone() -> None:
    view = made_view(depth=10, layer=3)
    scores = view.before.attention(view.last)[:, -1, view.visual].mean(0)
    best = scores.argsort(descending=True)[:16]
    assert LazyLLM().decide(view).kept.tolist() == view.kept_with_text(best).tolist()


@pytest.mark.parametrize("change", ["crop", "reorder", "elsewhere"])
def test_an_edited_cache_is_refused(change: str) -> None:
    model, ids = small_decoder(), prompt()
    cache = DynamicCache()
    with attach(model, LazyLLM(), locate), torch.no_grad():
        model(ids, past_key_values=cache)
        if change == "crop":
            cache.crop(-1)
        elif change == "reorder":
            cache.reorder_cache(torch.tensor([0]))
        if change != "elsewhere":
            with pytest.raises(InvalidValueError, match="start a new cache, without beams"):
                model(torch.tensor([[5]]), past_key_values=cache)
            return
    with attach(model, LazyLLM(), locate), pytest.raises(InvalidValueError, match="start a new cache"):
        model(ids, past_key_values=cache)


def test_a_cache_that_holds_everything_may_be_cropped() -> None:
    model, ids = small_decoder(), prompt()
    cache = DynamicCache()
    with torch.no_grad():
        expected = model(torch.cat([ids[:, :-2], torch.tensor([[5]])], 1)).logits[0, -1]
        with attach(model, LazyLLM(keep_ratio=1.0), locate):
            model(ids, past_key_values=cache)
            cache.crop(-2)
            got = model(torch.tensor([[5]]), past_key_values=cache).logits[0, -1]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_flash_attention_is_refused() -> None:
    model = small_decoder()
    try:
        model.config._attn_implementation = "flash_attention_2"
        with pytest.raises(UnsupportedModelError, match="sdpa or eager"):
            attach(model, LazyLLM(), locate).__enter__()
    finally:
        model.config._attn_implementation = "sdpa"
    with attach(model, LazyLLM(), locate), pytest.raises(InvalidValueError, match=r"\(batch, 35\)"):
        model(prompt(), attention_mask=torch.ones(1, 36))
