"""Stores inside a cache: what a model is given back, in every situation that generation brings about."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from streamprune.cache.kept import KeptCache
from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.kv.base import Policy
from streamprune.kv.cskv import CSKV
from streamprune.kv.fourier_attention import FourierAttention
from streamprune.kv.h2o import H2O
from streamprune.kv.kivi import Kivi
from streamprune.kv.mustafar import Mustafar
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.store import Store
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.tova import TOVA
from streamprune.kv.zeromerge import ZeroMerge
from tests.cache.small_text_model import full_cache, left_padded, make_model, prompt

STORES: dict[str, tuple[Store, ...]] = {
    "kivi": (Kivi(bits=4, group=4, exact_last=8),),
    "kivi-unrotated": (Kivi(bits=4, group=4, exact_last=8, unrotated=True),),
    "mustafar": (Mustafar(exact_last=6),),
    "cskv": (CSKV(exact_last=4),),
    "fourier": (FourierAttention(states=8, room=6, exact_first=2, exact_last=6),),
    "all": (
        CSKV(exact_last=4),
        FourierAttention(states=8, room=6, exact_first=2, exact_last=6),
        Mustafar(exact_last=4),
        Kivi(bits=8, group=4, exact_last=4),
    ),
}
IDENTITY = (Kivi(bits=16), Mustafar(sparsity=0.0), CSKV(density=1.0), FourierAttention(states=None))
POLICIES: list[Policy] = [
    StreamingLLM(keep_tokens=24),
    SnapKV(keep_tokens=24, window=4),
    H2O(keep_tokens=24),
    TOVA(keep_tokens=24),
    ZeroMerge(keep_tokens=24),
]
each_store = pytest.mark.parametrize("stores", STORES.values(), ids=STORES)
ANSWER = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: make_model(kind) for kind in ("sdpa", "eager")}


def run(model: Any, ids: torch.Tensor, cache: Any, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad(), cache.watch(model):
        logits: torch.Tensor = model(ids, past_key_values=cache, **kwargs).logits
    return logits


def steps(model: Any, ids: torch.Tensor, cache: KeptCache, first: int) -> torch.Tensor:
    """Logits of a prompt and then of token after token."""
    parts = [run(model, ids[:, :first], cache)]
    parts += [run(model, ids[:, place : place + 1], cache) for place in range(first, ids.shape[1])]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_at_their_identity_stores_are_the_stock_cache(kind: str, dtype: torch.dtype) -> None:
    model = make_model(kind, dtype)
    stock = model.generate(prompt(40), past_key_values=full_cache(model), **ANSWER)
    cache = KeptCache.of(model, *IDENTITY)
    ours = model.generate(prompt(40), past_key_values=cache, **ANSWER)
    assert torch.equal(ours.sequences, stock.sequences)
    assert torch.equal(torch.stack(ours.logits), torch.stack(stock.logits))
    assert {(layer.held, layer.bytes) for layer in cache.report()} == {(43, 43 * 2 * 2 * 16 * dtype.itemsize)}


@pytest.mark.parametrize("unrotated", [False, True])
def test_storing_without_loss_changes_nothing(models: Any, unrotated: bool) -> None:
    # so small a share drops no element
    store = Mustafar(sparsity=0.01, exact_last=3, unrotated=unrotated)
    for model in models.values():
        cache = KeptCache.of(model, store)
        assert (steps(model, prompt(40), cache, 30) - run_stock(model, prompt(40))).abs().max() < 1e-5
        assert len(cache.layers[0].tensors) == (8 if unrotated else 6), "it was stored"


def run_stock(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids).logits
    return logits


@each_store
def test_the_prompt_sees_what_came_and_the_answer_what_is_stored(
    models: Any, stores: tuple[Store, ...]
) -> None:
    model, ids = models["sdpa"], prompt(50)
    cache = KeptCache.of(model, *stores)
    assert torch.equal(run(model, ids[:, :49], cache), run_stock(model, ids[:, :49]))
    reference = full_cache(model)
    with torch.no_grad():
        model(ids[:, :49], past_key_values=reference)
    lossy = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    changed = 0.0
    for layer, (keys, values) in zip(reference.layers, lossy, strict=True):
        assert torch.equal(layer.keys[:, :, -1:], keys[:, :, -1:])
        changed = max(changed, float((layer.values - values).abs().max()))
        layer.keys, layer.values = keys, values
    assert changed > 1e-3, "nothing is proved where nothing is lost"
    with torch.no_grad():
        expected = model(ids[:, 49:], past_key_values=reference).logits
    assert (run(model, ids[:, 49:], cache) - expected).abs().max() < 1e-9


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_bytes_are_those_that_are_held(heads: int) -> None:
    model = make_model("sdpa", torch.bfloat16, key_value_heads=heads)
    cache = KeptCache.of(model, Kivi(bits=2, group=8, exact_last=16))
    run(model, prompt(70), cache)
    keys = 64 * (16 * 2 // 8) + 2 * 2 * 8 * 16 + 6 * 16 * 2
    values = 54 * (16 * 2 // 8 + 2 * 2 * 2) + 16 * 16 * 2
    assert {layer.bytes for layer in cache.report()} == {heads * (keys + values)}
    for place in range(3):
        run(model, prompt(1, seed=place), cache)
    keys, values = keys + 3 * 32, values + 3 * (16 * 2 // 8 + 2 * 2 * 2)
    assert {layer.bytes for layer in cache.report()} == {heads * (keys + values)}
    assert {(layer.seen, layer.held) for layer in cache.report()} == {(73, 73)}


@each_store
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_policies_keep_their_budget_beside_stores(
    models: Any, policy: Policy, stores: tuple[Store, ...]
) -> None:
    model, ids = models["sdpa"], prompt(58, rows=2)
    cache = KeptCache.of(model, policy, *stores)
    for start, stop in ((0, 40), *((place, place + 1) for place in range(40, 46)), (46, 57)):
        run(model, ids[:, start:stop], cache)
        decoding = 0 if policy.decoding == "hold" or stop > 46 else max(0, stop - 40)
        assert {layer.held for layer in cache.report()} == {24 + decoding}
        for layer in cache.layers:
            assert layer.keys.shape == layer.values.shape == (2, 2, layer.held, 16)
            assert torch.isfinite(layer.keys).all()
    keys = [layer.keys.clone() for layer in cache.layers]
    alone = KeptCache.of(model, policy, *stores)
    for start, stop in ((0, 40), *((place, place + 1) for place in range(40, 46)), (46, 57)):
        run(model, ids[:1, start:stop], alone)
    # what every row can leave in the stores is left there; keys that are grouped anew differ by rounding
    regroups = isinstance(policy, TOVA) and any(isinstance(store, Kivi) for store in stores)
    for layer, both in zip(alone.layers, keys, strict=True):
        difference = (layer.keys[0] - both[0]).abs()
        assert difference.median() < 1e-6, "a row is stored as if it were alone"
        assert regroups or difference.max() < 1e-6


def test_a_budget_in_bytes_counts_entries_as_they_came(models: Any) -> None:
    model, held = models["sdpa"], []
    for stores in ((), (Kivi(bits=2, group=4, exact_last=4),)):
        cache = KeptCache.of(model, StreamingLLM(keep_bytes=20_000), *stores)
        steps(model, prompt(50), cache, 44)
        report = cache.report()
        held.append((report[0].held, sum(layer.bytes for layer in report)))
    assert held[0][0] == held[1][0] == 19
    assert held[1][1] < 0.75 * held[0][1] < 0.75 * 20_000


@each_store
def test_what_a_policy_keeps_reads_back_as_before(models: Any, stores: tuple[Store, ...]) -> None:
    model, ids = models["sdpa"], prompt(60)
    whole, cache = KeptCache.of(model, *stores), KeptCache.of(model, StreamingLLM(keep_tokens=44), *stores)
    for some in (whole, cache):
        run(model, ids[:, :44], some)
    assert torch.equal(cache.layers[0].keys, whole.layers[0].keys)
    before = cache.layers[0].keys
    run(model, ids[:, 44:45], cache)
    stored = [*range(4), *range(5, 36)]  # the tokens after them are in windows, or have just left one
    drops = any(isinstance(store, FourierAttention) for store in stores)
    difference = (cache.layers[0].keys[:, :, :35] - before[:, :, stored]).abs().max()
    # waves go on changing with every token that becomes part of them
    assert drops or difference < 1e-9


@each_store
def test_beams_and_rows(models: Any, stores: tuple[Store, ...]) -> None:
    model, ids, order = models["sdpa"], prompt(56, rows=3), torch.tensor([2, 0, 2])

    def after(change: Any, rows: torch.Tensor) -> torch.Tensor:
        cache = KeptCache.of(model, TOVA(keep_tokens=30), *stores)
        run(model, ids[:, :50], cache)
        change(cache)
        return torch.cat([run(model, rows[:, place : place + 1], cache) for place in range(50, 55)], 1)

    plain = after(lambda cache: None, ids)
    for change, expected in (
        (lambda cache: cache.reorder_cache(order), order),
        (lambda cache: cache.batch_select_indices(order[:2]), order[:2]),
        (lambda cache: cache.batch_repeat_interleave(2), torch.arange(3).repeat_interleave(2)),
    ):
        assert torch.allclose(after(change, ids[expected]), plain[expected], atol=1e-6)
    cache = KeptCache.of(model, *stores)
    with cache.watch(model):
        out = model.generate(prompt(40, rows=2), past_key_values=cache, num_beams=3, max_new_tokens=4)
    assert out.shape == (2, 44)
    assert {layer.keys.shape[0] for layer in cache.layers} == {6}


@each_store
def test_crop_and_turns(models: Any, stores: tuple[Store, ...]) -> None:
    model, ids = models["eager"], prompt(70)
    cache = KeptCache.of(model, *stores)
    run(model, ids[:, :50], cache)
    left = copy.deepcopy(cache)
    before = cache.layers[1].keys.clone()
    run(model, prompt(2, seed=7), cache)
    cache.crop(-2)
    assert {(layer.seen, layer.held) for layer in cache.report()} == {(50, 50)}
    if any(isinstance(store, FourierAttention) for store in stores):
        assert torch.equal(cache.layers[1].keys[:, :, -2:], before[:, :, -2:])
    else:
        stored = 50 - 8  # the two tokens may have pushed others into the store
        assert torch.allclose(cache.layers[1].keys[:, :, :stored], before[:, :, :stored], atol=1e-9)
    cache.crop(-30)
    assert {(layer.seen, layer.held) for layer in cache.report()} == {(20, 20)}
    assert torch.isfinite(run(model, ids[:, 20:30], cache)).all()
    # a second turn in one piece and in two
    once, twice = copy.deepcopy(left), left
    whole = run(model, ids[:, 50:], once)
    first = run(model, ids[:, 50:51], twice)
    assert torch.allclose(whole[:, :1], first, atol=1e-9)
    cache.reset()
    assert {(layer.seen, layer.held, layer.bytes) for layer in cache.report()} == {(0, 0, 0)}
    assert torch.equal(run(model, ids[:, :50], cache), run_stock(model, ids[:, :50]))


def test_padding_stretches_no_scale() -> None:
    model = make_model("sdpa", torch.float32)
    long, short = prompt(40), prompt(24, seed=2)
    both = torch.cat([long, left_padded(short, 40)])
    stores = Kivi(bits=8, group=4, exact_last=8), Mustafar(sparsity=0.07, exact_last=8)
    cache = KeptCache.of(model, *stores)
    mask = (both > 0).long()
    with cache.watch(model):
        out = model.generate(both, attention_mask=mask, past_key_values=cache, **ANSWER)
    for row, ids in enumerate((long, short)):
        one = KeptCache.of(model, *stores)
        with one.watch(model):
            alone = model.generate(ids, past_key_values=one, **ANSWER)
        # groups begin elsewhere in a padded row
        assert (torch.stack(out.logits, 1)[row] - torch.stack(alone.logits, 1)[0]).abs().max() < 0.5
    layer = cache.layers[0]
    held = layer.keys[1, :, :16]
    first = layer.keys[1, :, 16:17]
    assert (held - first).abs().max() < 0.1 * first.abs().max(), "padding is stored as the token next to it"
    late = KeptCache.of(model, *stores)
    run(model, both[:, 16:], late)
    turn = torch.cat([prompt(5, seed=3), left_padded(prompt(3, seed=4), 5)])
    seen = torch.cat([torch.ones(2, 24, dtype=torch.long), (turn > 0).long()], 1)
    run(model, turn, late, attention_mask=seen)
    assert (late.layers[0].entries["tokens"][1, 0] < 0).nonzero().flatten().tolist() == [24, 25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = make_model("sdpa", dtype)
    for stores in STORES.values():
        cache = KeptCache.of(model, *stores)
        assert torch.isfinite(steps(model, prompt(46), cache, 40).float()).all()
        assert {layer.keys.dtype for layer in cache.layers} == {dtype}


def test_unrotated_keys_are_what_the_model_had_before_rotation(models: Any) -> None:
    model, ids, before = models["sdpa"], prompt(44), []
    hooks = [
        layer.self_attn.k_proj.register_forward_hook(lambda module, args, out: before.append(out.detach()))
        for layer in model.model.layers
    ]
    store = Mustafar(sparsity=0.01, exact_last=4, unrotated=True)
    cache = KeptCache.of(model, store)
    run(model, ids, cache, position_ids=torch.arange(44)[None] * 3 + 5)
    for hook in hooks:
        hook.remove()
    for layer, made in zip(cache.layers, before, strict=True):
        packed = layer._shelves["keys"].packed
        assert packed is not None
        plain = made.reshape(1, 44, 2, 16).transpose(1, 2)[:, :, :40]
        assert (packed.load() - plain).abs().max() < 1e-5
        assert (layer.keys[:, :, :40] - plain).abs().max() > 0.1
        assert layer.entries["stored_at"][0, 0].tolist() == list(range(5, 137, 3))


def test_compact_positions_move_what_is_read_back(models: Any) -> None:
    model, ids = models["sdpa"], prompt(48)
    for unrotated in (False, True):
        plain = KeptCache.of(model, StreamingLLM(keep_tokens=20), positions="compact")
        store = Mustafar(sparsity=0.01, exact_last=4, unrotated=unrotated)
        stored = KeptCache.of(model, StreamingLLM(keep_tokens=20), store, positions="compact")
        assert (steps(model, ids, stored, 40) - steps(model, ids, plain, 40)).abs().max() < 1e-4


def test_what_stores_cannot_do_is_refused(models: Any) -> None:
    model = models["sdpa"]
    cache = KeptCache.of(model, CSKV())
    with pytest.raises(InvalidValueError, match=r"unrotated=True has to know positions.*cache\.watch"):
        model(prompt(20), past_key_values=cache)
    assert cache.report()[0].held == 0
    other = make_model("sdpa")
    other.model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(UnsupportedModelError, match="rotations that stay the same"), cache.watch(other):
        pytest.fail("let in")
    other.model.rotary_emb.forward = lambda x, position_ids, layer_type=None: None
    with pytest.raises(UnsupportedModelError, match="one rotation for all layers"), cache.watch(other):
        pytest.fail("let in")


def test_nothing_that_was_read_back_is_kept(models: Any) -> None:
    model = models["sdpa"]
    cache = KeptCache.of(model, Kivi(bits=2, group=8, exact_last=8))
    run(model, prompt(50), cache)
    layer = cache.layers[0]
    dense = [tensor for tensor in layer.tensors if tensor.shape[-2:] == (50, 16)]
    assert dense == []
    assert layer.keys is not layer.keys, "every reading is made anew"
    assert (
        sum(tensor.nbytes for tensor in layer.tensors) == cache.report()[0].bytes < 0.5 * 50 * 2 * 2 * 16 * 8
    )
