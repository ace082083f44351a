"""Each policy on tensors small enough to work out by hand, or against the plain arithmetic of its paper."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import one_hot

from streamprune.kv.a2sf import A2SF
from streamprune.kv.base import Policy
from streamprune.kv.expected_attention import ExpectedAttention
from streamprune.kv.h2o import H2O
from streamprune.kv.infinipot_v import InfiniPotV
from streamprune.kv.keydiff import KeyDiff
from streamprune.kv.knorm import KNorm
from streamprune.kv.kvcrush import KVCrush
from streamprune.kv.lagkv import LagKV
from streamprune.kv.pyramidkv import PyramidKV
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.streamingllm import StreamingLLM
from streamprune.kv.tova import TOVA
from streamprune.kv.vatp import VATP
from streamprune.kv.view import LayerView, TokenLabels
from streamprune.registry import build_method, list_methods
from tests.kv.made_view import chosen, random_view, view_of


def _paying(rows: list[list[float]]) -> LayerView:
    """A view in which query i pays exactly ``rows[i]`` to the entries up to its own."""
    entries = len(rows)
    keys = torch.eye(entries)
    queries = torch.zeros(entries, entries)
    for i, row in enumerate(rows):
        queries[i, : i + 1] = torch.tensor(row).log()
    return view_of(keys, queries=queries)


def test_streamingllm_keeps_the_first_and_the_newest() -> None:
    view = view_of(torch.zeros(7, 2))
    assert chosen(StreamingLLM(sinks=2, keep_tokens=5), view) == [[0, 1, 4, 5, 6]]
    assert chosen(StreamingLLM(sinks=0, keep_tokens=3), view) == [[4, 5, 6]]
    assert chosen(StreamingLLM(sinks=4, keep_tokens=2), view) == [[0, 1]], "the first sinks"
    padded = dataclasses.replace(view, tokens=view.tokens - 2)
    padded = dataclasses.replace(padded, tokens=padded.tokens.clamp(min=-1))
    assert chosen(StreamingLLM(sinks=2, keep_tokens=4), padded) == [[2, 3, 5, 6]], "padding is no sink"


def test_knorm_keeps_small_keys() -> None:
    keys = torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 1.0]])
    assert chosen(KNorm(keep_tokens=2), view_of(keys)) == [[1, 2]]


def test_keydiff_keeps_what_points_elsewhere() -> None:
    angles = torch.tensor([0.0, 10.0, 20.0, 90.0]).deg2rad()
    keys = torch.stack([angles.cos(), angles.sin()], -1)
    assert chosen(KeyDiff(keep_tokens=1), view_of(keys)) == [[3]]
    assert chosen(KeyDiff(keep_tokens=3), view_of(keys)) == [[0, 1, 3]], "20 degrees is nearest to the mean"
    assert chosen(KeyDiff(keep_tokens=2), view_of(keys)) == [[0, 3]]
    assert chosen(KeyDiff(keep_tokens=2), view_of(keys * torch.tensor([[9.0], [1], [2], [5]]))) == [[0, 3]]
    assert chosen(KeyDiff(keep_tokens=2), view_of(torch.ones(4, 3))) == [[0, 1]], "ties: the older"
    assert len(chosen(KeyDiff(keep_tokens=2), view_of(torch.zeros(4, 3)))[0]) == 2


def test_lagkv_scores_a_block_on_the_scale_of_the_next() -> None:
    keys = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    score = LagKV(sinks=0, lag=2, across_blocks=True).score(view_of(keys))
    expected = torch.softmax(torch.tensor([0.0, math.sqrt(2)]), 0)
    assert torch.allclose(score[0, 0, :2], expected)
    assert (score[0, 0, 2:] > 1).all(), "the last block stays"
    policy = LagKV(sinks=4, lag=128, keep_tokens=200)
    for entries, scored in ((300, 128), (400, 256)):
        score = policy.score(view_of(torch.randn(entries, 4, generator=torch.Generator().manual_seed(1))))
        assert int((score < 1).sum()) == scored
        assert (score[0, 0, :4] > 1).all()
    assert chosen(LagKV(keep_tokens=6), view_of(torch.randn(10, 2))) == [[0, 1, 2, 3, 8, 9]], (
        "too short: by age"
    )
    still = view_of(torch.ones(12, 3))
    assert torch.isfinite(LagKV(sinks=0, lag=4).score(still)).all()


def test_lagkv_does_not_mind_the_scale_of_channels() -> None:
    view = random_view(40)
    scale, shift = torch.rand(8) + 0.5, torch.randn(8)
    moved = dataclasses.replace(view, keys=view.keys * scale + shift, values=view.values * 3)
    policy = LagKV(sinks=2, lag=6, keep_tokens=20)
    assert chosen(policy, view) == chosen(policy, moved)


def test_tova_asks_the_newest_token() -> None:
    view = _paying([[1.0], [0.5, 0.5], [0.2, 0.3, 0.5], [0.3, 0.3, 0.3, 0.1], [0.1, 0.4, 0.2, 0.29, 0.01]])
    assert chosen(TOVA(keep_tokens=3), view) == [[1, 3, 4]]
    heads = chosen(TOVA(keep_tokens=9), random_view())
    assert heads[0] == heads[1], "one choice for all heads"


def test_snapkv_with_one_query_and_no_smoothing_is_tova_of_each_head() -> None:
    view = random_view(heads=1, group=3)
    assert chosen(SnapKV(window=1, kernel=1, keep_tokens=9), view) == chosen(TOVA(keep_tokens=9), view)


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_snapkv_against_the_plain_arithmetic(pooling: str) -> None:
    view = random_view(25)
    window, kernel, budget = 6, 5, 12
    policy = SnapKV(window=window, kernel=kernel, pooling=pooling, keep_tokens=budget)  # type: ignore[arg-type]
    assert view.queries is not None
    for head, kept in enumerate(chosen(policy, view)):
        total = [0.0] * (25 - window)
        for query_head in (2 * head, 2 * head + 1):
            votes = [0.0] * (25 - window)
            for i in range(25 - window, 25):
                logits = [float(view.queries[0, query_head, i] @ view.keys[0, head, j]) for j in range(i + 1)]
                weights = [math.exp(x - max(logits)) for x in logits]
                for j in range(25 - window):
                    votes[j] += weights[j] / sum(weights)
            for j in range(25 - window):
                near = [votes[k] if 0 <= k < 25 - window else 0.0 for k in range(j - 2, j + 3)]
                total[j] += sum(near) / kernel if pooling == "average" else max(near)
        best = sorted(range(25 - window), key=lambda j: -total[j])[: budget - window]
        assert kept == [*sorted(best), *range(25 - window, 25)]


def test_snapkv_with_little_room_keeps_the_newest() -> None:
    view = random_view(20)
    assert chosen(SnapKV(window=8, keep_tokens=3), view) == [[17, 18, 19]] * 2
    assert chosen(SnapKV(window=64, keep_tokens=3), view) == [[17, 18, 19]] * 2


def test_kvcrush_without_representatives_is_its_host() -> None:
    view = random_view(40)
    host = chosen(SnapKV(window=4, keep_tokens=12), view)
    assert chosen(KVCrush(window=4, representatives=0.0, keep_tokens=12), view) == host


@pytest.mark.parametrize("anchor", ["zeros", "ones", "alternating"])
def test_kvcrush_against_the_plain_arithmetic(anchor: str) -> None:
    view, window, budget = random_view(41), 4, 17
    policy = KVCrush(window=window, representatives=0.4, anchor=anchor, keep_tokens=budget)  # type: ignore[arg-type]
    older, kept_by_host = 37, budget - 6
    votes = policy.votes(view)[0].flatten(0, 1).tolist()
    bits = [[0] * 4 for _ in range(older)]
    for head, scores in enumerate(votes):
        for token in sorted(range(older), key=lambda i: -scores[i])[: older // 2]:
            bits[token][head] = 1
    reference = {"zeros": [0] * 4, "ones": [1] * 4, "alternating": [0, 1, 0, 1]}[anchor]
    distance = [sum(a != b for a, b in zip(row, reference, strict=True)) for row in bits]
    hosts = chosen(SnapKV(window=window, keep_tokens=kept_by_host), view)
    for host, kept in zip(hosts, chosen(policy, view), strict=True):
        rest = sorted((token for token in range(older) if token not in host), key=lambda i: distance[i])
        picks = [rest[i * (len(rest) - 1) // 5] for i in range(6)]
        assert kept == sorted([*host, *picks])


def test_kvcrush_keeps_padding_last() -> None:
    view = random_view(30)
    padded = dataclasses.replace(view, tokens=(view.tokens - 22).clamp(min=-1))
    for head in chosen(KVCrush(window=2, representatives=0.5, keep_tokens=12), padded):
        assert set(range(22, 30)) <= set(head), "fewer tokens than the budget: all stay"
        assert len(set(head)) == 12


def test_h2o_sums_what_was_paid() -> None:
    view = _paying([[1.0], [0.9, 0.1], [0.6, 0.1, 0.3]])
    state = H2O().observe(view)["received"]
    assert torch.allclose(state[0, 0], torch.tensor([2.5, 0.2, 0.3]))
    assert chosen(H2O(keep_tokens=2), view) == [[0, 2]]
    by_age = dataclasses.replace(view, state={"received": state})
    assert torch.allclose(H2O(by_age=True).score(by_age)[0, 0], torch.tensor([2.5 / 3, 0.1, 0.3]))


def test_a2sf_forgets() -> None:
    view = _paying([[1.0], [0.4, 0.6]])
    for forgetting, first in ((0.5, 0.9), (0.1, 0.5), (0.0, 0.4), (1.0, 1.4)):
        state = A2SF(forgetting=forgetting).observe(view)["received"]
        assert torch.allclose(state[0, 0], torch.tensor([first, 0.6]))
    assert chosen(A2SF(forgetting=0.5, keep_tokens=1), view) == [[0]]
    assert chosen(A2SF(forgetting=0.1, keep_tokens=1), view) == [[1]]


@pytest.mark.parametrize("policy", [H2O(), A2SF(forgetting=0.7)])
def test_token_by_token_adds_up_to_one_call(policy: Policy) -> None:
    view = random_view(20)
    assert view.queries is not None
    state: dict[str, torch.Tensor] = {}
    for new in range(1, 21):
        part = dataclasses.replace(
            view,
            keys=view.keys[:, :, :new],
            values=view.values[:, :, :new],
            tokens=view.tokens[..., :new],
            queries=view.queries[:, :, new - 1 : new],
            new=1,
            state={name: torch.cat([value, value.new_zeros(1, 2, 1)], -1) for name, value in state.items()},
        )
        state = dict(policy.observe(part))
    assert torch.allclose(state["received"], policy.observe(view)["received"], atol=1e-5)


def test_vatp_weighs_attention_by_the_value() -> None:
    view = _paying([[1.0], [0.9, 0.1], [0.6, 0.1, 0.3]])
    values = torch.diag(torch.tensor([1.0, -40.0, 0.1]))[None, None]
    policy = VATP(sinks=0, recent_share=0.0, keep_tokens=1)
    assert chosen(policy, dataclasses.replace(view, values=values)) == [[1]]
    assert chosen(policy, view) == [[0]], "equal values leave attention"
    silent = dataclasses.replace(view, values=torch.zeros_like(values))
    assert chosen(VATP(sinks=1, recent_share=0.5, keep_tokens=2), silent) == [[0, 2]]


def _clip(frames: int, rows: int, cols: int, text: int = 2, *, seed: int = 3) -> LayerView:
    """Text, then a clip whose keys and values are random."""
    per_frame = rows * cols
    view = random_view(text + frames * per_frame, seed=seed)
    place = torch.arange(view.held) - text
    return dataclasses.replace(
        view,
        segments=torch.where(place < 0, -1, place // per_frame).expand(view.tokens.shape),
        cells=torch.where(place < 0, -1, place % per_frame).expand(view.tokens.shape),
        grid=(rows, cols),
    )


def test_infinipot_v_against_the_plain_arithmetic() -> None:
    view = _clip(8, 2, 2)
    policy = InfiniPotV(keep_tokens=2 + 15)
    for head, kept in enumerate(chosen(policy, view)):
        keys, values = view.keys[0, head, 2:].double(), view.values[0, head, 2:].double()
        cosines = [
            sum(float(torch.cosine_similarity(keys[t * 4 + j], keys[r * 4 + j], dim=0)) for r in (6, 7)) / 2
            for t in range(6)
            for j in range(4)
        ]
        unlike = [*sorted(range(24), key=lambda i: cosines[i])[:-1], *range(24, 32)]
        share = 15 - round(0.5 * 15)  # 7: fewer than the 8 tokens of the newest frames
        expected = set(range(25, 32)) if share < 8 else set(unlike[:share])
        rest = sorted(set(range(32)) - expected, key=lambda i: -float(values[i].norm()))
        expected |= set(rest[: 15 - len(expected)])
        assert kept == [0, 1, *sorted(i + 2 for i in expected)]
    roomy = InfiniPotV(keep_tokens=2 + 24)
    for head, kept in enumerate(chosen(roomy, view)):
        keys = view.keys[0, head, 2:].double()
        mean = [
            sum(float(torch.cosine_similarity(keys[i], keys[r * 4 + i % 4], dim=0)) for r in (6, 7))
            for i in range(24)
        ]
        assert {0, 1, *range(26, 34), *(i + 2 for i in sorted(range(24), key=mean.__getitem__)[:4])} <= set(
            kept
        )


def test_infinipot_v_compares_at_the_same_place_after_earlier_choices() -> None:
    view = _clip(4, 1, 3, text=1)
    # of every frame one token is gone, each time another
    left = torch.tensor([0, 1, 2, 5, 6, 7, 9, 10, 11])[None, None].expand(1, 2, -1)
    held = dataclasses.replace(
        view,
        **{
            name: getattr(view, name).gather(2, left if name not in ("keys", "values") else _wide(left, view))
            for name in ("keys", "values", "tokens", "segments", "cells")
        },
    )
    policy = InfiniPotV(redundancy_share=1.0, recent_share=0.25, keep_tokens=6)
    for head, kept in enumerate(chosen(policy, held)):
        tokens = left[0, head].tolist()
        newest = [i for i, token in enumerate(tokens) if token in (10, 11, 12)]
        score = {}
        for i, token in enumerate(tokens):
            mates = [j for j in newest if (tokens[j] - 1) % 3 == (token - 1) % 3]
            if token and i not in newest:
                pairs = [(held.keys[0, head, i], held.keys[0, head, j]) for j in mates]
                score[i] = sum(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs)
        best = sorted(score, key=score.__getitem__)[: 6 - 1 - len(newest)]
        assert kept == sorted([0, *newest, *best])


def _wide(index: torch.Tensor, view: LayerView) -> torch.Tensor:
    return index[..., None].expand(*index.shape, view.keys.shape[-1])


def test_infinipot_v_pools_less_and_less() -> None:
    view = _clip(5, 3, 3, text=1)
    peak = torch.zeros_like(view.values)
    peak[:, :, 1 + 2 * 9 + 4] = 27.0 / 8**0.5  # the middle of the middle frame
    policy = InfiniPotV(adaptive_pooling=True)
    sizes = {0: (27, 1.0), 1: (9, 3.0), 2: (3, 9.0), 3: (1, 27.0), 4: (1, 27.0)}
    for layer, (places, norm) in sizes.items():
        norms = policy.score(dataclasses.replace(view, values=peak, layer=layer, depth=5))
        assert int((norms[0, 0] > 0).sum()) == places
        assert norms.max() == pytest.approx(norm)
    small = policy.score(dataclasses.replace(_clip(2, 3, 3), layer=0, depth=4))
    plain = InfiniPotV().score(_clip(2, 3, 3))
    assert torch.equal(small, plain), "no kernel fits into two frames"


def test_a_still_clip_keeps_its_newest_frames() -> None:
    view = _clip(8, 2, 2)
    still = dataclasses.replace(view, keys=torch.ones_like(view.keys), values=torch.ones_like(view.values))
    assert chosen(InfiniPotV(keep_tokens=2 + 20), still) == [[0, 1, *range(2, 14), *range(26, 34)]] * 2


def test_labels() -> None:
    segments = torch.tensor([[-1, 0, 0, 1]])
    labels = TokenLabels(segments, torch.tensor([[-1, 0, 1, 0]]), (1, 2))
    assert {name: part.tolist() for name, part in labels.part(3, 2).items()} == {
        "segments": [[1, -2]],
        "cells": [[0, -1]],
    }
    assert TokenLabels(segments).part(9, 1)["segments"].tolist() == [[-2]]
    with pytest.raises(ValueError, match="cells and grid belong together"):
        TokenLabels(segments, segments)
    with pytest.raises(ValueError, match="cells must be"):
        TokenLabels(segments, segments[:, :2], (1, 2))
    with pytest.raises(ValueError, match="segments must be"):
        TokenLabels(segments[0])
    view = random_view(9)
    with pytest.raises(ValueError, match="which frames the others show is not known"):
        InfiniPotV(keep_tokens=4).keep(view, 4)
    with pytest.raises(ValueError, match="where in their frames the visual tokens stand is not known"):
        InfiniPotV(keep_tokens=4).keep(dataclasses.replace(view, segments=view.tokens), 4)


def _turned(view: LayerView, position: int, seed: int = 5) -> LayerView:
    """``view`` with rotations, its newest token at ``position``."""
    frequencies = 50.0 ** (-torch.arange(4) / 4)
    angles = (position * frequencies).repeat(2)
    return dataclasses.replace(view, frequencies=frequencies, turn=(angles.cos()[None], angles.sin()[None]))


def test_expected_attention_against_the_plain_arithmetic() -> None:
    view = _turned(random_view(20), 19)
    assert view.queries is not None
    assert view.frequencies is not None
    policy = ExpectedAttention(future=7, sinks=3)
    turn = torch.zeros(8, 8, dtype=torch.float64)
    for position in range(20, 27):
        for pair in range(4):
            angle = position * float(view.frequencies[pair])
            block = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            places = torch.tensor([pair, pair + 4])
            turn[places[:, None], places] += block / 7
    scores = policy.observe(view)["expected"]
    for head in range(2):
        total = torch.zeros(17, dtype=torch.float64)
        for query_head in (2 * head, 2 * head + 1):
            queries = view.queries[0, query_head, 3:].double()
            mean = turn @ queries.mean(0)
            spread = turn @ torch.cov(queries.T, correction=0) @ turn.T
            keys = view.keys[0, head, 3:].double()
            logits = keys @ mean / 8**0.5 + ((keys @ spread) * keys).sum(1) / 16
            total += torch.softmax(logits, 0) / 2
        expected = total * view.values[0, head, 3:].double().norm(dim=1)
        assert (scores[0, head, 3:] - expected).abs().max() < 1e-5 * expected.max()
        best = sorted(range(17), key=lambda i: -float(expected[i]))[:6]
        kept = chosen(dataclasses.replace(policy, keep_tokens=9), view)[head]
        assert kept == [0, 1, 2, *sorted(i + 3 for i in best)]


def test_expected_attention_of_equal_keys_goes_by_their_values() -> None:
    view = _turned(random_view(12), 11)
    same = dataclasses.replace(view, keys=torch.ones_like(view.keys))
    policy = ExpectedAttention(sinks=0)
    ratio = policy.observe(same)["expected"] / view.values.norm(dim=-1)
    assert torch.allclose(ratio, torch.full_like(ratio, 1 / 12))
    flat = dataclasses.replace(policy, value_norm=False).observe(same)["expected"]
    assert torch.allclose(flat, torch.full_like(flat, 1 / 12))
    short = _turned(random_view(3), 2)
    assert torch.isfinite(ExpectedAttention().observe(short)["expected"]).all()
    with pytest.raises(ValueError, match="rotations are only known to policies that see unrotated queries"):
        policy.observe(random_view(12))


@pytest.mark.parametrize("elements", [2**20, 600])
def test_attention_in_blocks_sums_to_one_for_every_query(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr("streamprune.kv.view._CPU_ELEMENTS", elements)
    view = random_view(300, dim=4)
    view = dataclasses.replace(view, bias=torch.rand(1, 2, 300, generator=torch.Generator().manual_seed(2)))
    received = view.received()
    assert torch.allclose(received.sum(-1), torch.tensor(300.0))
    assert torch.allclose(received, view.attention(300).sum(-2).mean(2), atol=1e-4)
    decayed = view.received(decay=0.9)
    weights = 0.9 ** torch.arange(299, -1, -1)
    assert torch.allclose(decayed, (view.attention(300) * weights[:, None]).sum(-2).mean(2), atol=1e-4)
    padded = dataclasses.replace(view, tokens=(view.tokens - 37).clamp(min=-1))
    assert torch.allclose(padded.received(), padded.attention(300).sum(-2).mean(2), atol=1e-4)
    assert torch.allclose(padded.received().sum(-1), torch.tensor(263.0))


def test_padding_is_nobody() -> None:
    view = random_view(12)
    padded = dataclasses.replace(view, tokens=(view.tokens - 5).clamp(min=-1))
    rows = padded.attention(12)
    assert (rows[..., :5] == 0).all()
    assert (rows[..., :5, :] == 0).all()
    assert torch.allclose(rows[..., 5:, :].sum(-1), torch.ones(()))
    assert chosen(KNorm(keep_tokens=8), padded)[0][:5] != [0, 1, 2, 3, 4]


ALL: list[Policy] = [build_method("kv", row.name, {}) for row in list_methods("kv") if not row.stacks]


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: type(policy).__name__)
def test_every_policy(policy: Policy) -> None:
    view = _turned(_clip(7, 2, 4, text=4), 59)
    kept = chosen(dataclasses.replace(policy, keep_ratio=0.5, protect_first=3, protect_last=2), view)
    for head in kept:
        assert head == sorted(set(head))
        assert {0, 1, 2, 58, 59} <= set(head)
        assert min(head) >= 0
        assert max(head) < 60
    assert len({len(head) for head in kept}) == 1
    half = dataclasses.replace(
        view, keys=view.keys.half(), values=view.values.half(), queries=_maybe_half(view.queries)
    )
    wide = dataclasses.replace(
        half, keys=half.keys.float(), values=half.values.float(), queries=_maybe_float(half.queries)
    )
    budget = dataclasses.replace(policy, keep_ratio=0.5)
    assert chosen(budget, half) == chosen(budget, wide), "half precision decides as its float32 copy"
    few = dataclasses.replace(policy, keep_tokens=4)
    assert all(len(head) >= 1 for head in chosen(few, view))
    still = dataclasses.replace(view, keys=torch.zeros_like(view.keys), values=torch.zeros_like(view.values))
    assert all(math.isfinite(x) for head in chosen(budget, still) for x in head)
    assert one_hot(torch.tensor(chosen(budget, still)), 60).sum(-2).max() == 1
    assert dataclasses.replace(policy, keep_ratio=1.0).choose(view, entry_bytes=1) is None


def _maybe_half(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.half()


def _maybe_float(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.float()


@pytest.mark.parametrize(
    ("cls", "options", "said"),
    [
        (KNorm, {"keep_ratio": 0.5, "keep_tokens": 3}, "give keep_ratio or keep_tokens, not both"),
        (KNorm, {"keep_bytes": 10, "keep_tokens": 3}, "give one of keep_ratio, keep_tokens and keep_bytes"),
        (KNorm, {"keep_bytes": 0}, "keep_bytes must be at least 1"),
        (KNorm, {"keep_ratio": 0.0}, r"keep_ratio must be in \(0, 1\]"),
        (KNorm, {"protect_first": -1}, "protect_first must be at least 0"),
        (KNorm, {"protect_text": 1}, "protect_text must be True or False"),
        (KNorm, {"decoding": "drop"}, "unknown decoding 'drop'"),
        (StreamingLLM, {"sinks": -1}, "sinks must be at least 0"),
        (LagKV, {"lag": 1}, "lag must be at least 2"),
        (SnapKV, {"kernel": 4}, "kernel must be odd"),
        (SnapKV, {"window": 0}, "window must be at least 1"),
        (SnapKV, {"pooling": "min"}, "unknown pooling 'min'"),
        (PyramidKV, {"beta": 0.5}, r"beta must be in \[1, "),
        (PyramidKV, {"whole_steps": 1}, "whole_steps must be True or False"),
        (H2O, {"recent_share": 1.5}, r"recent_share must be in \[0, 1\]"),
        (ExpectedAttention, {"future": 0}, "future must be at least 1"),
        (ExpectedAttention, {"sinks": -1}, "sinks must be at least 0"),
        (ExpectedAttention, {"covariance": 0}, "covariance must be True or False"),
        (ExpectedAttention, {"value_norm": "l2"}, "value_norm must be True or False"),
        (KVCrush, {"representatives": 1.5}, "representatives must be in"),
        (KVCrush, {"anchor": "random"}, "unknown anchor 'random'"),
        (A2SF, {"forgetting": -0.1}, r"forgetting must be in \[0, 1\]"),
        (InfiniPotV, {"redundancy_share": 2.0}, "redundancy_share must be in"),
        (InfiniPotV, {"recent_share": -1.0}, "recent_share must be in"),
        (InfiniPotV, {"adaptive_pooling": 1}, "adaptive_pooling must be True or False"),
        (VATP, {"sinks": -3}, "sinks must be at least 0"),
        (H2O, {"by_age": "yes"}, "by_age must be True or False"),
    ],
)
def test_options_out_of_range(cls: type[Policy], options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cls(**options)  # type: ignore[arg-type]


def test_a_policy_without_queries_says_so() -> None:
    view = view_of(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="no queries were computed"):
        SnapKV(keep_tokens=2).keep(view, 2)
