"""Positions counted over the entries held: keys move, and queries follow them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.cache.kept import KeptCache
from streamprune.kv.h2o import H2O
from streamprune.kv.kvzip import KVzip
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.zeromerge import ZeroMerge
from tests.cache.small_text_model import full_cache, left_padded, make_model, prompt


def _run(model: Any, ids: torch.Tensor, cache: Any = None) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids, past_key_values=cache).logits
    return logits


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_a_single_layer_sees_what_a_fresh_run_over_the_kept_tokens_sees(kind: str) -> None:
    model, ids = make_model(kind, layers=1), prompt(60)
    cache = KeptCache.of(model, StreamingLLM(keep_tokens=12), positions="compact")
    held: list[int] = []
    with cache.watch(model):
        for start, stop in ((0, 30), (30, 31), (31, 32), (32, 41), (41, 42), (42, 60)):
            ours = _run(model, ids[:, start:stop], cache)
            fresh = torch.cat([ids[:, held], ids[:, start:stop]], 1)
            expected = _run(model, fresh)[:, len(held) :]
            assert (ours - expected).abs().max() < 1e-5
            held = cache.layers[0].entries["tokens"][0, 0].tolist()
            assert held == [0, 1, 2, 3, *range(stop - 8, stop)]
    # positions that grow with the tokens seen see something else
    absolute = KeptCache.of(model, StreamingLLM(keep_tokens=12))
    for start, stop in ((0, 30), (30, 31), (31, 32), (32, 41), (41, 42), (42, 60)):
        other = _run(model, ids[:, start:stop], absolute)
    assert (ours - other).abs().max() > 0.1


def test_a_policy_can_say_it() -> None:
    model, ids = make_model("sdpa"), prompt(60)
    policy = StreamingLLM(keep_tokens=12, cache_positions="compact")
    by_policy, by_cache = (
        KeptCache.of(model, policy),
        KeptCache.of(model, StreamingLLM(keep_tokens=12), positions="compact"),
    )
    for start, stop in ((0, 30), (30, 60)):
        with by_policy.watch(model), by_cache.watch(model):
            assert torch.equal(
                _run(model, ids[:, start:stop], by_policy), _run(model, ids[:, start:stop], by_cache)
            )
    assert not KeptCache.of(model, policy, positions="keep").compact
    with pytest.raises(ValueError, match="unknown positions 'shift'"):
        StreamingLLM(cache_positions="shift")  # type: ignore[arg-type]
    for cls in (ZeroMerge, KVzip):
        with pytest.raises(ValueError, match='leave positions at "keep"'):
            cls(cache_positions="compact")


def test_nothing_dropped_is_bit_identical() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model("sdpa", dtype)
        settings = {
            "max_new_tokens": 4,
            "do_sample": False,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        cache = KeptCache.of(model, H2O(keep_tokens=100), positions="compact")
        with cache.watch(model):
            ours = model.generate(prompt(20), past_key_values=cache, **settings)
        stock = model.generate(prompt(20), past_key_values=full_cache(model), **settings)
        assert torch.equal(torch.stack(ours.logits), torch.stack(stock.logits))


def test_positions_do_not_drift_in_half_precision() -> None:
    model = make_model("sdpa", torch.bfloat16, layers=1)
    cache, ids = KeptCache.of(model, StreamingLLM(keep_tokens=12), positions="compact"), prompt(200)
    with cache.watch(model):
        _run(model, ids[:, :12], cache)
        for place in range(12, 199):
            _run(model, ids[:, place : place + 1], cache)
        tokens = cache.layers[0].entries["tokens"][0, 0].tolist()
        ours = _run(model, ids[:, 199:], cache)
    expected = _run(model, ids[:, [*tokens, 199]])[:, -1:]
    assert (ours - expected).abs().max() < 0.03 * expected.abs().max()


def test_what_cannot_be_moved_is_refused() -> None:
    model = make_model("sdpa")
    cache = KeptCache.of(model, StreamingLLM(keep_tokens=5), positions="compact")
    with pytest.raises(ValueError, match="compact positions are given to the model's queries too"):
        _run(model, prompt(20), cache)
    cache = KeptCache.of(model, StreamingLLM(keep_tokens=5), positions="compact")
    both = torch.cat([prompt(20), left_padded(prompt(12), 20)])
    with pytest.raises(ValueError, match="takes no padded batches"), cache.watch(model):
        model(both, attention_mask=(both > 0).long(), past_key_values=cache)
    with pytest.raises(ValueError, match="unknown positions 'shift'"):
        KeptCache.of(model, StreamingLLM(), positions="shift")  # type: ignore[arg-type]
    rotary = model.model.rotary_emb
    for name, value in (("mrope_section", [2, 3, 3]), ("rope_type", "dynamic"), ("inv_freq", torch.ones(4))):
        before = getattr(rotary, name, None)
        setattr(rotary, name, value)
        with pytest.raises(ValueError, match='positions="compact" needs'), cache.watch(model):
            pytest.fail("let in")
        if before is None:
            delattr(rotary, name)
        else:
            setattr(rotary, name, before)
