"""The promises of a reduced cache, held for every policy on a small random model."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from streamprune.cache.kept import KeptCache
from streamprune.cache.kept_layer import KeptLayer
from streamprune.kv.base import Policy
from streamprune.kv.expected_attention import ExpectedAttention
from streamprune.kv.h2o import H2O
from streamprune.kv.knorm import KNorm
from streamprune.kv.pyramidkv import PyramidKV
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.tova import TOVA
from streamprune.kv.view import LayerView, TokenLabels
from streamprune.ops.rotary import rotate, turned_further
from tests.cache.policies import MASKING, PADDING, each_policy, ids_of
from tests.cache.small_text_model import full_cache, left_padded, make_model, prompt, seeing_only

ANSWER = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: make_model(kind) for kind in ("sdpa", "eager")}


@pytest.fixture(scope="module")
def padding_models(models: dict[str, Any]) -> dict[str, Any]:
    # the stock eager attention turns rows of padding into NaN in float64
    return {"sdpa": models["sdpa"], "eager": make_model("eager", torch.float32)}


def _labels() -> TokenLabels:
    """Three tokens of text, then frames of 2 x 2; the tokens after them are an answer's or a question's."""
    place = torch.arange(25)
    segments = torch.where(place < 3, -1, (place - 3) // 4)[None]
    return TokenLabels(segments, torch.where(place < 3, -1, (place - 3) % 4)[None], (2, 2))


def _cache(model: Any, policy: Policy) -> KeptCache:
    return KeptCache.of(model, policy, labels=_labels() if "segments" in policy.needs else None)


def _held(cache: KeptCache) -> list[torch.Tensor]:
    return [layer.entries["tokens"].clone() for _, layer in cache.kept_layers()]


def _run(model: Any, ids: torch.Tensor, cache: Any, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids, past_key_values=cache, **kwargs).logits
    return logits


@pytest.fixture(scope="module")
def stock_answers() -> Callable[[str, torch.dtype], tuple[Any, Any]]:
    """(a model, what it answers with the stock cache)."""

    @functools.cache
    def answer(kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
        model = make_model(kind, dtype)
        return model, model.generate(prompt(20), past_key_values=full_cache(model), **ANSWER)

    return answer


@each_policy
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keeping_all_is_the_stock_cache_bit_for_bit(
    stock_answers: Any, cls: type[Policy], options: dict[str, Any], kind: str, dtype: torch.dtype
) -> None:
    model, stock = stock_answers(kind, dtype)
    budgets: list[dict[str, Any]] = [{"keep_tokens": 1000}]
    if cls is StreamingLLM:
        budgets += [{}, {"keep_ratio": 1.0}, {"keep_bytes": 10**6}]
    for budget in budgets:
        cache = _cache(model, cls(**options, **budget))
        with cache.watch(model):
            ours = model.generate(prompt(20), past_key_values=cache, **ANSWER)
        assert torch.equal(ours.sequences, stock.sequences)
        assert torch.equal(torch.stack(ours.logits), torch.stack(stock.logits))
        assert {(layer.seen, layer.held) for layer in cache.report()} == {(22, 22)}


@pytest.mark.parametrize(("cls", "options"), MASKING, ids=ids_of(MASKING))
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_dropped_is_masked(models: Any, kind: str, cls: type[Policy], options: dict[str, Any]) -> None:
    model, reference = models[kind], full_cache(models[kind])
    cache = _cache(model, cls(**options, keep_tokens=12, decoding="hold"))
    ids, seen = prompt(60, rows=2), 0
    # a prompt in two parts, a few tokens of an answer, and a second turn
    for part in (30, 10, 1, 1, 1, 12, 1, 4):
        new = ids[:, seen : seen + part]
        held = _held(cache) if seen else [torch.zeros(2, 2, 0)] * 2
        with cache.watch(model):
            ours = _run(model, new, cache)
        with seeing_only(model, held, seen):
            expected = _run(model, new, reference)
        assert (ours - expected).abs().max() < 1e-5
        seen += part
        for tokens in _held(cache):
            assert (tokens.diff(dim=-1) > 0).all()
            assert int(tokens.max()) < seen
    assert [layer.seen for layer in cache.report()] == [seen] * 2


@each_policy
@pytest.mark.parametrize("budget", [{"keep_tokens": 9}, {"keep_ratio": 0.3}, {"keep_bytes": 8_000}])
def test_the_budget_holds_after_every_token(
    models: Any, cls: type[Policy], options: dict[str, Any], budget: dict[str, Any]
) -> None:
    model = models["sdpa"]
    cache = _cache(model, cls(**options, **budget, decoding="hold"))
    ids = prompt(46)
    with cache.watch(model):
        for start, stop in ((0, 40), *((place, place + 1) for place in range(40, 46))):
            _run(model, ids[:, start:stop], cache)
            report = cache.report()
            if "keep_bytes" in budget:
                assert 6_500 < sum(layer.bytes for layer in report) <= 8_000
            else:
                entries = 9 if "keep_tokens" in budget else 12
                assert sum(layer.held for layer in report) == 2 * entries
            for layer, held in zip(cache.layers, report, strict=True):
                # nothing else is behind the tensors: no slice keeps its base alive
                assert held.bytes == sum(tensor.nbytes for tensor in layer.tensors)
                assert layer.keys.shape == (1, 2, held.held, 16)


@each_policy
def test_growing_leaves_the_answer_alone(models: Any, cls: type[Policy], options: dict[str, Any]) -> None:
    model = models["sdpa"]
    cache = _cache(model, cls(**options, keep_tokens=9, decoding="grow"))
    ids = prompt(46)
    with cache.watch(model):
        _run(model, ids[:, :40], cache)
        before = _held(cache)
        for place in range(40, 44):
            _run(model, ids[:, place : place + 1], cache)
    for old, now in zip(before, _held(cache), strict=True):
        assert torch.equal(now[..., :-4], old)
        assert set(now[..., -4:].flatten().tolist()) == {40, 41, 42, 43}


@pytest.mark.parametrize(("cls", "options"), PADDING, ids=ids_of(PADDING))
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_padded_rows_equal_single_runs(
    padding_models: Any, kind: str, cls: type[Policy], options: dict[str, Any]
) -> None:
    model = padding_models[kind]
    long, short = prompt(40), prompt(24, seed=2)
    both = torch.cat([long, left_padded(short, 40)])

    def answer(ids: torch.Tensor, entries: int) -> tuple[torch.Tensor, KeptCache]:
        cache = _cache(model, cls(**options, keep_tokens=entries, decoding="hold"))
        with cache.watch(model):
            out = model.generate(ids, attention_mask=(ids > 0).long(), past_key_values=cache, **ANSWER)
        return torch.stack(out.logits, 1), cache

    limit = 1e-5 if kind == "sdpa" else 3e-5  # float32: logits near 8
    together, cache = answer(both, 12)
    for row, ids in enumerate((long, short)):
        alone, single = answer(ids, 12)
        if cls is not PyramidKV or row == 0:  # layers share the budget out by the longest row
            assert (together[row] - alone[0]).abs().max() < limit
            for batch, one in zip(_held(cache), _held(single), strict=True):
                assert torch.equal(batch[row], one[0])


def test_padding_that_is_held_stays_hidden(padding_models: Any) -> None:
    both = torch.cat([prompt(40), left_padded(prompt(6, seed=2), 40)])
    for kind, model in padding_models.items():
        limit = 1e-5 if kind == "sdpa" else 3e-5  # float32: logits near 8
        cache = KeptCache.of(model, KNorm(keep_tokens=12, decoding="grow"))
        mask = (both > 0).long()
        with cache.watch(model):
            out = model.generate(both, attention_mask=mask, past_key_values=cache, **ANSWER)
        alone = model.generate(prompt(6, seed=2), **ANSWER)
        difference = torch.stack(out.logits, 1)[1] - torch.stack(alone.logits, 1)[0]
        assert difference.abs().max() < limit, kind
        # a second turn, padded again
        turn = torch.cat([prompt(5, seed=3), left_padded(prompt(3, seed=4), 5)])
        whole = torch.cat([out.sequences, turn], 1)
        seen = torch.cat([mask, torch.ones(2, 3, dtype=torch.long), (turn > 0).long()], 1)
        cache.crop(-(cache.get_seq_length() - 40))
        with cache.watch(model):
            logits = _run(
                model, whole[:, 40:], cache, attention_mask=seen, position_ids=_positions(seen)[:, 40:]
            )
        only = whole[1:, 34:][seen[1:, 34:] > 0][None]
        assert (logits[1, -1] - _run(model, only, full_cache(model))[0, -1]).abs().max() < limit


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


@each_policy
def test_stock_generate_in_turns_and_chunks(models: Any, cls: type[Policy], options: dict[str, Any]) -> None:
    model = models["eager"]
    settings = {"do_sample": False, "return_dict_in_generate": True, "max_new_tokens": 3}
    cache = _cache(model, cls(**options, keep_tokens=12, decoding="hold"))
    with cache.watch(model):
        first = model.generate(prompt(30), past_key_values=cache, **settings)
        turn = torch.cat([first.sequences, prompt(7, seed=3)], 1)
        second = model.generate(turn, past_key_values=cache, **settings)
    # the same by hand: one call for the prompt, one for each token, one for the turn
    by_hand = _cache(model, cls(**options, keep_tokens=12, decoding="hold"))
    ids = second.sequences
    with by_hand.watch(model):
        for start, stop in ((0, 30), (30, 31), (31, 32), (32, 40), (40, 41), (41, 42)):
            _run(model, ids[:, start:stop], by_hand)
    for ours, expected in zip(_held(cache), _held(by_hand), strict=True):
        assert torch.equal(ours, expected)
    in_chunks = _cache(model, cls(**options, keep_tokens=12, decoding="hold"))
    with in_chunks.watch(model):
        model.generate(prompt(30), past_key_values=in_chunks, prefill_chunk_size=8, **settings)
    assert {layer.seen for layer in in_chunks.report()} == {32}
    assert sum(layer.held for layer in in_chunks.report()) <= 24 + 2


@each_policy
def test_beams(models: Any, cls: type[Policy], options: dict[str, Any]) -> None:
    model = models["sdpa"]
    settings = {"do_sample": False, "num_beams": 3, "max_new_tokens": 5, "return_dict_in_generate": True}
    cache = _cache(model, cls(**options, keep_tokens=1000))
    with cache.watch(model):
        ours = model.generate(prompt(20, rows=2), past_key_values=cache, output_scores=True, **settings)
    stock = model.generate(prompt(20, rows=2), output_scores=True, **settings)
    assert torch.equal(ours.sequences, stock.sequences)
    assert torch.equal(ours.sequences_scores, stock.sequences_scores)
    cache = _cache(model, cls(**options, keep_tokens=9, decoding="hold"))
    with cache.watch(model):
        model.generate(prompt(20, rows=2), past_key_values=cache, **settings)
    assert {layer.entries["tokens"].shape[0] for _, layer in cache.kept_layers()} == {6}


@each_policy
def test_rows_are_reordered_repeated_and_selected_with_all_they_carry(
    models: Any, cls: type[Policy], options: dict[str, Any]
) -> None:
    model = models["sdpa"]
    ids = prompt(26, rows=3)
    order = torch.tensor([2, 0, 2])

    def after(change: Any, rows: torch.Tensor) -> torch.Tensor:
        cache = _cache(model, cls(**options, keep_tokens=8, decoding="hold"))
        with cache.watch(model):
            _run(model, ids[:, :20], cache)
            change(cache)
            return torch.cat([_run(model, rows[:, place : place + 1], cache) for place in range(20, 25)], 1)

    plain = after(lambda cache: None, ids)
    assert torch.allclose(
        after(lambda cache: cache.reorder_cache(order), ids[order]), plain[order], atol=1e-9
    )
    assert torch.allclose(
        after(lambda cache: cache.batch_select_indices(order[:2]), ids[order[:2]]),
        plain[order[:2]],
        atol=1e-9,
    )
    repeated = after(lambda cache: cache.batch_repeat_interleave(2), ids.repeat_interleave(2, 0))
    assert torch.allclose(repeated, plain.repeat_interleave(2, 0), atol=1e-9)


def test_crop_takes_back_the_newest_tokens(models: Any) -> None:
    model, ids = models["sdpa"], prompt(40)
    cache = KeptCache.of(model, StreamingLLM(keep_tokens=12, decoding="grow"))
    _run(model, ids[:, :30], cache)
    expected = _run(model, ids[:, 30:34], copy.deepcopy(cache))
    _run(model, prompt(1, seed=5), cache)
    _run(model, prompt(1, seed=6), cache)
    cache.crop(0)
    assert cache.get_seq_length() == 32
    cache.crop(-2)
    assert cache.get_seq_length() == 30
    assert torch.equal(_run(model, ids[:, 30:34], cache), expected)
    for layer in cache.layers:
        assert layer.keys.untyped_storage().nbytes() == layer.keys.nbytes
    with pytest.raises(ValueError, match="must be 0 or less"):
        cache.crop(3)
    uneven = KeptCache.of(model, KNorm(keep_tokens=5))
    _run(model, ids, uneven)
    with pytest.raises(ValueError, match="some heads have dropped some of them"):
        uneven.crop(-20)
    whole = KeptCache.of(model, KNorm())
    _run(model, ids, whole)
    whole.crop(-3)
    assert (whole.report()[0].seen, whole.report()[0].held) == (37, 37)
    assert whole.layers[0].keys.untyped_storage().nbytes() == whole.layers[0].keys.nbytes


def test_a_reset_cache_is_a_new_one(models: Any) -> None:
    model = models["sdpa"]
    cache = KeptCache.of(model, H2O(keep_tokens=8))
    with cache.watch(model):
        _run(model, prompt(30, seed=9), cache)
        cache.reset()
        assert cache.get_seq_length() == 0
        again = _run(model, prompt(20), cache), _run(model, prompt(1, seed=3), cache)
    fresh = KeptCache.of(model, H2O(keep_tokens=8))
    with fresh.watch(model):
        expected = _run(model, prompt(20), fresh), _run(model, prompt(1, seed=3), fresh)
    assert torch.equal(again[0], expected[0])
    assert torch.equal(again[1], expected[1])


def test_what_is_protected_stays(models: Any) -> None:
    model, ids = models["sdpa"], prompt(30)
    segments = torch.full((1, 24), -1)
    segments[:, 5:20] = torch.arange(15) // 5
    cache = KeptCache.of(
        model, KNorm(keep_tokens=12, protect_text=True, protect_last=2), labels=TokenLabels(segments)
    )
    _run(model, ids[:, :24], cache)
    for _, layer in cache.kept_layers():
        for tokens, labels in zip(
            layer.entries["tokens"][0].tolist(), layer.entries["segments"][0].tolist(), strict=True
        ):
            assert {*range(5), *range(20, 24)} <= set(tokens)
            assert labels == [int(segments[0, token]) for token in tokens]
    _run(model, ids[:, 24:27], cache)
    for tokens in _held(cache):
        assert (tokens[..., -2:] == torch.tensor([25, 26])).all()
    assert int(cache.layers[0].entries["segments"][0, 0, -1]) == -2


def test_errors(models: Any) -> None:
    model = models["sdpa"]
    with pytest.raises(ValueError, match="budget of 4 entries is smaller than the 6 that are protected"):
        KNorm(keep_tokens=4, protect_first=3, protect_last=3)
    with pytest.raises(ValueError, match="budget of 6 entries is smaller than the 10 that are protected"):
        _run(model, prompt(20), KeptCache.of(model, KNorm(keep_ratio=0.3, protect_first=10)))
    with pytest.raises(ValueError, match="which frames the others show is not known"):
        _run(model, prompt(20), KeptCache.of(model, KNorm(keep_tokens=4, protect_text=True)))
    cache = KeptCache.of(model, TOVA(keep_tokens=4))
    with pytest.raises(ValueError, match="TOVA reads the model's queries"):
        _run(model, prompt(20), cache)
    assert {(layer.seen, layer.held) for layer in cache.report()} == {(0, 0)}, "as if it had not been asked"
    with pytest.raises(ValueError, match="holds not even one entry"):
        _run(model, prompt(20), KeptCache.of(model, KNorm(keep_bytes=100)))
    with pytest.raises(TypeError, match=r"a cache takes a streamprune\.kv\.base\.Policy and instances"):
        KeptCache.of(model, "knorm")  # type: ignore[arg-type]


def test_nothing_is_left_on_the_model(models: Any) -> None:
    model = models["sdpa"]
    cache = KeptCache.of(model, TOVA(keep_tokens=4))

    def hooks() -> int:
        return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())

    before = hooks()
    with cache.watch(model):
        assert hooks() > before
        with pytest.raises(IndexError):
            _run(model, torch.tensor([[10_000]]), cache)
    assert hooks() == before
    with pytest.raises(IndexError), cache.watch(model):
        _run(model, torch.tensor([[10_000]]), cache)
    assert hooks() == before
    # another cache in the same block is left alone
    with cache.watch(model):
        stock = _run(model, prompt(20), full_cache(model))
    assert torch.equal(stock, _run(model, prompt(20), full_cache(model)))


def test_queries_give_the_attention_of_the_model() -> None:
    model, ids = make_model("eager"), prompt(20)
    rows: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, args, out: rows.append(out[1]))
        for layer in model.model.layers
    ]
    seen: list[torch.Tensor] = []

    class Spy(H2O):
        def observe(self, view: Any) -> Any:
            seen.append(view.attention(20).flatten(1, 2))
            return super().observe(view)

    cache = KeptCache.of(model, Spy(keep_tokens=15))
    with cache.watch(model):
        _run(model, ids, cache)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2
    for ours, expected in zip(seen, rows, strict=True):
        assert (ours - expected).abs().max() < 1e-6


def test_what_a_failed_call_was_told_is_forgotten(models: Any) -> None:
    model = models["sdpa"]
    cache = KeptCache.of(model, TOVA(keep_tokens=4))

    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("broken")

    hook = model.model.layers[1].self_attn.k_proj.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="broken"), cache.watch(model):
        _run(model, prompt(20), cache)
    hook.remove()
    assert all(layer.looked is None for _, layer in cache.kept_layers())
    cache.reset()
    with cache.watch(model):
        ours = _run(model, prompt(20), cache)
    assert torch.equal(ours, _run(model, prompt(20), full_cache(model)))


def test_unrotated_queries_come_with_what_rotates_them() -> None:
    model, ids = make_model("eager"), prompt(20)
    rows: list[torch.Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, args, out: rows.append(out[1]))
        for layer in model.model.layers
    ]
    seen: list[torch.Tensor] = []

    class Spy(ExpectedAttention):
        def observe(self, view: LayerView) -> Any:
            assert view.frequencies is not None
            assert view.queries is not None
            assert view.turn is not None
            turned = turned_further(view.queries.float(), torch.arange(20), view.frequencies)
            seen.append(dataclasses.replace(view, queries=turned).attention(20).flatten(1, 2))
            newest = rotate(view.queries[:, :, -1].float(), view.turn[0].float(), view.turn[1].float())
            assert torch.allclose(newest, turned[:, :, -1], atol=1e-5)
            return super().observe(view)

    cache = KeptCache.of(model, Spy(keep_tokens=15))
    with cache.watch(model):
        _run(model, ids, cache)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2
    for ours, expected in zip(seen, rows, strict=True):
        assert (ours - expected).abs().max() < 1e-5
    model.model.rotary_emb.inv_freq = torch.ones(4)
    with pytest.raises(ValueError, match="Spy needs rotations of whole heads of 16"), cache.watch(model):
        pytest.fail("let in")


def test_layers_that_do_not_look_at_everything_stay_stock() -> None:
    model = make_model()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    model.config.sliding_window = 8
    cache = KeptCache.of(model, KNorm(keep_tokens=4))
    assert [isinstance(layer, KeptLayer) for layer in cache.layers] == [True, False]
    assert cache.depth == 1
    model.config.layer_types = ["sliding_attention"] * 2
    with pytest.raises(ValueError, match="nothing to reduce"):
        KeptCache.of(model, KNorm(keep_tokens=4))
