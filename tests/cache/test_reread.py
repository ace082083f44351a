"""Reading a prompt again: the votes it gives, and that nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.cache.kept import KeptCache
from streamprune.kv.base import Replacement
from streamprune.kv.kvzip import KVzip
from streamprune.kv.view import LayerView, TokenLabels
from tests.cache.small_text_model import GROUP, full_cache, left_padded, make_model, prompt

INSTRUCTION, OVERLAP, SINKS = [7, 8], 3, 4


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: make_model(kind) for kind in ("sdpa", "eager")}


def _run(model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids, past_key_values=cache).logits
    return logits


def _attention(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """(rows, heads, tokens, tokens) of every layer, as the model's own eager attention has it."""
    rows: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, args, out: rows.append(out[1]))
        for layer in model.model.layers
    ]
    _run(model, ids, None)
    for hook in hooks:
        hook.remove()
    return rows


def _expected(model: Any, ids: torch.Tensor, parts: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Votes from the model's attention over a prompt with one part of it behind it."""
    tokens = ids.shape[1]
    votes = [torch.zeros(1, 2, tokens, dtype=torch.float64) for _ in model.model.layers]
    for first, last in parts:
        again = torch.tensor(INSTRUCTION)[None], ids[:, max(0, first - OVERLAP) : last]
        for found, rows in zip(votes, _attention(model, torch.cat([ids, *again], 1)), strict=True):
            looked = sorted({*range(SINKS), *range(first, last)})
            paid = rows[:, :, tokens:]
            whole = paid[..., looked].sum(-1) + paid[..., tokens:].sum(-1)
            share = paid[..., first:last] / whole[..., None]
            found[..., first:last] = share.amax(-2).reshape(1, 2, GROUP, -1).amax(2)
    return votes


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("part", [100, 16])
def test_votes_are_attention_over_sinks_the_part_and_what_is_read(models: Any, kind: str, part: int) -> None:
    ids, seen = prompt(40), list[torch.Tensor]()

    class Spy(KVzip):
        def reduced(self, view: LayerView, limit: int) -> Replacement:
            seen.append(view.state["recalled"])
            return super().reduced(view, limit)

    policy = Spy(keep_tokens=12, part=part, overlap=OVERLAP, instruction=INSTRUCTION, sinks=SINKS)
    cache = KeptCache.of(models[kind], policy)
    with cache.watch(models[kind]):
        logits = _run(models[kind], ids, cache)
    parts = [(0, 40)] if part == 100 else [(0, 13), (13, 26), (26, 40)]
    for votes, expected in zip(seen, _expected(models["eager"], ids, parts), strict=True):
        assert (votes - expected).abs().max() < 1e-5
        assert float(expected.max()) > 0.5, "attention that looks at nothing proves nothing"
    assert torch.equal(logits, _run(models[kind], ids, full_cache(models[kind])))
    for (_, layer), votes in zip(cache.kept_layers(), seen, strict=True):
        for head, kept in enumerate(layer.entries["tokens"][0].tolist()):
            scores = votes[0, head]
            best = sorted(range(SINKS, 40), key=lambda i: -float(scores[i]))[: 12 - SINKS]
            assert kept == [*range(SINKS), *sorted(best)]


def test_nothing_is_read_again_while_there_is_room(models: Any) -> None:
    model = models["sdpa"]
    calls: list[int] = []
    hook = model.model.register_forward_hook(lambda module, args, out: calls.append(1))
    for policy, expected in ((KVzip(keep_tokens=1000), 1), (KVzip(), 1), (KVzip(keep_tokens=9, part=5), 9)):
        calls.clear()
        cache = KeptCache.of(model, policy)
        with cache.watch(model):
            _run(model, prompt(40), cache)
        assert len(calls) == expected
        assert cache.get_seq_length() == 40
    hook.remove()


def test_of_a_labelled_prompt_the_visual_tokens_are_read_again(models: Any) -> None:
    model = models["sdpa"]
    place = torch.arange(30)
    segments = torch.where((place < 5) | (place >= 25), -1, (place - 5) // 10)[None]
    cache = KeptCache.of(model, KVzip(keep_tokens=16), labels=TokenLabels(segments))
    sizes: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: (
            sizes.append(kwargs["inputs_embeds"].shape[1])
            if kwargs.get("inputs_embeds") is not None
            else None
        ),
        with_kwargs=True,
    )
    with cache.watch(model):
        _run(model, prompt(30), cache)
        assert sizes == [20]
        for tokens in (layer.entries["tokens"] for _, layer in cache.kept_layers()):
            for head in tokens[0].tolist():
                assert {*range(5), *range(25, 30)} <= set(head)
                assert len(head) == 16
        # a later question has no context of its own, and drops nothing
        before = [layer.entries["tokens"].clone() for _, layer in cache.kept_layers()]
        _run(model, prompt(6, seed=3), cache)
    hook.remove()
    assert sizes == [20]
    for old, (_, layer) in zip(before, cache.kept_layers(), strict=True):
        assert torch.equal(layer.entries["tokens"][..., :16], old)
        assert layer.held == 22


def test_a_second_question_does_not_depend_on_the_first(models: Any) -> None:
    model, segments = models["sdpa"], torch.zeros(1, 30, dtype=torch.int64)
    answers = []
    for questions in ((4,), (5, 4)):
        cache = KeptCache.of(model, KVzip(keep_tokens=10), labels=TokenLabels(segments))
        with cache.watch(model):
            _run(model, prompt(30), cache)
            for seed in questions:
                out = _run(model, prompt(6, seed=seed), cache)
                cache.crop(-6)
        answers.append(out)
    assert torch.equal(answers[0], answers[1])


def test_layers_that_are_not_reduced_forget_the_second_reading() -> None:
    model = make_model(layers=3)
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    model.config.sliding_window, model.model.has_sliding_layers = 8, True
    ids = prompt(24)
    stock, cache = full_cache(model), KeptCache.of(model, KVzip(keep_tokens=12))
    _run(model, ids, stock)
    with cache.watch(model):
        _run(model, ids, cache)
    assert [layer.held for _, layer in cache.kept_layers()] == [12, 12]
    ours, expected = cache.layers[1], stock.layers[1]
    assert torch.equal(ours.keys, expected.keys)
    assert torch.equal(ours.values, expected.values)
    assert ours.get_seq_length() == expected.get_seq_length() == 24


def test_what_cannot_be_read_again_is_refused(models: Any) -> None:
    model = models["sdpa"]
    with pytest.raises(ValueError, match="KVzip reads prompts again at positions of their own"):
        KeptCache.of(model, KVzip(keep_tokens=9), positions="compact")
    cache = KeptCache.of(model, KVzip(keep_tokens=9))
    with pytest.raises(ValueError, match="KVzip has the model read prompts again: call the model inside"):
        _run(model, prompt(20), cache)
    both = torch.cat([prompt(20), left_padded(prompt(12), 20)])
    with pytest.raises(ValueError, match="takes no padded batches"), cache.watch(model):
        model(both, attention_mask=(both > 0).long(), past_key_values=cache)
    assert cache.get_seq_length() == 0, "as if it had not been asked"
    labels = TokenLabels(torch.stack([torch.arange(20) // 9, torch.arange(20) // 9 - 1]))
    cache = KeptCache.of(model, KVzip(keep_tokens=9), labels=labels)
    with (
        pytest.raises(ValueError, match="must have their visual tokens at the same places"),
        cache.watch(model),
    ):
        _run(model, prompt(20, rows=2), cache)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"part": 0}, ValueError, "part must be at least 1"),
        ({"overlap": -1}, ValueError, "overlap must be at least 0"),
        ({"sinks": -1}, ValueError, "sinks must be at least 0"),
        ({"instruction": "repeat"}, TypeError, "instruction must be a list of token ids"),
        ({"instruction": [1.5]}, TypeError, "instruction must be an integer"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        KVzip(**options)
