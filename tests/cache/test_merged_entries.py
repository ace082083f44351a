"""A cache whose entries stand for several tokens: more attention for them, in every kind of call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.cache.kept import KeptCache
from streamprune.kv.base import Replacement
from streamprune.kv.view import LayerView
from streamprune.kv.zeromerge import ZeroMerge
from tests.cache.small_text_model import full_cache, left_padded, make_model, prompt

STOOD_FOR = {2: [5, 6, 9], 11: [12, 14]}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: make_model(kind) for kind in ("sdpa", "eager")}


def _run(model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids, past_key_values=cache).logits
    return logits


class _AsIfEqual(ZeroMerge):
    """Drops some entries as if they had been equal to others."""

    def reduced(self, view: LayerView, limit: int) -> Replacement:
        gone = {entry for others in STOOD_FOR.values() for entry in others}
        kept = torch.tensor([entry for entry in range(view.held) if entry not in gone])
        weights = torch.tensor([1.0 + len(STOOD_FOR.get(int(entry), ())) for entry in kept])
        chosen = kept.expand(*view.tokens.shape[:2], -1)
        weight = torch.where(weights > 1, weights, 0.0).expand(chosen.shape)
        wide = chosen[..., None].expand(*chosen.shape, view.keys.shape[-1])
        return Replacement(
            chosen,
            view.keys.gather(2, wide),
            view.values.gather(2, wide),
            {"weight": weight, "received": torch.zeros(chosen.shape)},
            newest=torch.tensor(14),
        )


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("new", [1, 5])
def test_a_merged_entry_is_as_good_as_equal_ones(models: Any, kind: str, new: int) -> None:
    model, ids = models[kind], prompt(20 + new, rows=2)
    cache, stock = KeptCache.of(model, _AsIfEqual(keep_tokens=15)), full_cache(model)
    with cache.watch(model):
        _run(model, ids[:, :20], cache)
        ours = _run(model, ids[:, 20:], cache)
    _run(model, ids[:, :20], stock)
    other = _run(model, ids[:, 20:], full_cache_of(model, ids))
    for layer in stock.layers:
        for entry, others in STOOD_FOR.items():
            layer.keys[:, :, others] = layer.keys[:, :, entry : entry + 1]
            layer.values[:, :, others] = layer.values[:, :, entry : entry + 1]
    expected = _run(model, ids[:, 20:], stock)
    assert (ours - expected).abs().max() < 1e-5
    assert (ours - other).abs().max() > 0.1


def full_cache_of(model: Any, ids: torch.Tensor) -> Any:
    cache = full_cache(model)
    _run(model, ids[:, :20], cache)
    return cache


def test_both_kinds_of_attention_agree_on_a_long_answer(models: Any) -> None:
    answers = []
    for model in models.values():
        cache = KeptCache.of(model, ZeroMerge(keep_tokens=12, merged_entries=3))
        with cache.watch(model):
            out = model.generate(
                prompt(40),
                past_key_values=cache,
                max_new_tokens=12,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        for _, layer in cache.kept_layers():
            weights = layer.entries["weight"].clamp(min=1)
            assert weights.shape[-1] == 12
            assert (weights.sum(-1) == 40 + 11).all(), "every token counts once"
        answers.append(torch.stack(out.logits))
    assert (answers[0] - answers[1]).abs().max() < 1e-5


def test_padding_counts_for_nothing(models: Any) -> None:
    model = models["sdpa"]
    both = torch.cat([prompt(40), left_padded(prompt(24, seed=2), 40)])
    cache = KeptCache.of(model, ZeroMerge(keep_tokens=12, merged_entries=2))
    with cache.watch(model), torch.no_grad():
        model(both, attention_mask=(both > 0).long(), past_key_values=cache)
    for _, layer in cache.kept_layers():
        assert layer.entries["weight"].clamp(min=1).sum(-1).tolist() == [[40, 40], [24, 24]]


def test_what_was_merged_cannot_be_taken_back(models: Any) -> None:
    model, ids = models["sdpa"], prompt(46)
    cache = KeptCache.of(model, ZeroMerge(keep_tokens=12, recent_share=0.5, decoding="grow"))
    with cache.watch(model):
        _run(model, ids[:, :40], cache)
        expected = _run(model, ids[:, 40:46], cache)
        with pytest.raises(ValueError, match="have been merged into other entries already"):
            cache.crop(-30)
        assert cache.get_seq_length() == 46, "as if it had not been asked"
    cache = KeptCache.of(model, ZeroMerge(keep_tokens=12, recent_share=0.5, decoding="grow"))
    with cache.watch(model):
        _run(model, ids[:, :40], cache)
        for place in (2, 3):
            _run(model, ids[:, place : place + 1], cache)
        cache.crop(-2)
        assert torch.equal(_run(model, ids[:, 40:46], cache), expected)


def test_what_cannot_weigh_entries_is_refused(models: Any) -> None:
    model = models["sdpa"]
    with pytest.raises(ValueError, match="ZeroMerge merges entries of several positions"):
        KeptCache.of(model, ZeroMerge(keep_tokens=9), positions="compact")
    cache = KeptCache.of(model, ZeroMerge(keep_tokens=9))
    with cache.watch(model):
        _run(model, prompt(20), cache)
    with pytest.raises(ValueError, match="ZeroMerge reads the model's queries"):
        _run(model, prompt(1), cache)
    model.config._attn_implementation = "flash_attention_2"
    try:
        with (
            pytest.raises(ValueError, match="cannot take more attention to merged entries"),
            cache.watch(model),
        ):
            _run(model, prompt(1), cache)
    finally:
        model.config._attn_implementation = "sdpa"
