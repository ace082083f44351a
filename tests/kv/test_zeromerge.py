"""ZeroMerge on tensors, against the plain arithmetic of its paper."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from streamprune.kv.base import Replacement
from streamprune.kv.view import LayerView
from streamprune.kv.zeromerge import ZeroMerge
from tests.kv.made_view import random_view, view_of


def _told(policy: ZeroMerge, view: LayerView) -> LayerView:
    return dataclasses.replace(view, state=policy.observe(view))


def _after(policy: ZeroMerge, view: LayerView) -> Replacement:
    replaced = policy.replace(_told(policy, view), entry_bytes=1)
    assert replaced is not None
    return replaced


def _received(view: LayerView, decay: float) -> torch.Tensor:
    """(heads, entries) attention received under grouped queries, one query at a time."""
    assert view.queries is not None
    total = torch.zeros(view.keys.shape[1], view.held)
    for i in range(view.held):
        total *= decay
        for head in range(view.queries.shape[1]):
            logits = view.queries[0, head, i] @ view.keys[0, head // 2, : i + 1].T
            total[head // 2, : i + 1] += torch.softmax(logits, 0) / 2
    return total


@pytest.mark.parametrize("merged_score", ["max", "sum"])
def test_a_prompt_against_the_plain_arithmetic(merged_score: str) -> None:
    view, limit, groups, recent = random_view(31), 20, 3, 5
    policy = ZeroMerge(
        keep_tokens=limit,
        merged_entries=groups,
        recent_share=0.25,
        merged_score=merged_score,  # type: ignore[arg-type]
    )
    ours, scores = _after(policy, view), _received(view, 0.98)
    assert ours.keys is not None
    assert ours.values is not None
    assert int(ours.newest or 0) <= 25
    for head in range(2):
        older = range(31 - recent)
        top = sorted(sorted(older, key=lambda i: -float(scores[head, i]))[: limit - recent - groups])
        rest = [i for i in older if i not in top]
        assert len(rest) == 14
        members = [rest[:5], rest[5:10], rest[10:]]
        expected = {
            **{i: [i] for i in (*top, *range(31 - recent, 31))},
            **{group[0]: group for group in members},
        }
        kept = ours.chosen[0, head].tolist()
        assert kept == sorted(expected)
        for place, entry in enumerate(kept):
            of = expected[entry]
            assert torch.allclose(ours.keys[0, head, place], view.keys[0, head, of].mean(0), atol=1e-6)
            assert torch.allclose(ours.values[0, head, place], view.values[0, head, of].mean(0), atol=1e-6)
            score = scores[head, of].max() if merged_score == "max" else scores[head, of].sum()
            assert torch.allclose(ours.state["received"][0, head, place], score, atol=1e-5)
            weight = len(of) if entry in rest else 0
            assert ours.state["weight"][0, head, place] == weight


@pytest.mark.parametrize(("left", "sizes"), [(7, [3, 2, 2]), (9, [3, 3, 3]), (4, [2, 1, 1])])
def test_groups_are_even_and_the_first_are_larger(left: int, sizes: list[int]) -> None:
    policy = ZeroMerge(keep_tokens=6, merged_entries=3, recent_share=0.5)
    weights = _after(policy, random_view(left + 3)).state["weight"][0, 0]
    assert weights[weights > 0].tolist() == sizes


def _step(view: LayerView, before: Replacement, seed: int) -> LayerView:
    """What ``before`` left of ``view``, and one token more."""
    assert before.keys is not None
    assert before.values is not None
    extra = random_view(1, seed=seed)
    number = torch.full((1, 2, 1), view.seen, dtype=torch.int64)
    state = {name: torch.cat([value, value.new_zeros(1, 2, 1)], -1) for name, value in before.state.items()}
    return LayerView(
        keys=torch.cat([before.keys, extra.keys], 2),
        values=torch.cat([before.values, extra.values], 2),
        tokens=torch.cat([view.tokens.gather(-1, before.chosen), number], -1),
        state=state,
        new=1,
        seen=view.seen + 1,
        prompt=view.prompt,
        queries=extra.queries,
        scaling=1.0,
        bias=ZeroMerge().bias(state),
    )


@pytest.mark.parametrize("similarity", ["dot", "distance"])
def test_a_step_of_an_answer_against_the_plain_arithmetic(similarity: str) -> None:
    policy = ZeroMerge(
        keep_tokens=14,
        merged_entries=3,
        recent_share=0.3,
        similarity=similarity,  # type: ignore[arg-type]
    )
    view = random_view(26)
    before = _after(policy, view)
    step = _step(view, before, seed=8)
    ours = _after(policy, step)
    assert ours.keys is not None
    for head in range(2):
        keys, weight = step.keys[0, head], step.state["weight"][0, head].clamp(min=1)
        received = step.state["received"][0, head] * 0.98
        assert step.queries is not None
        for query_head in (2 * head, 2 * head + 1):
            logits = step.queries[0, query_head, 0] @ keys.T + weight.log()
            received = received + torch.softmax(logits, 0) / 2
        residual = [i for i in range(15) if step.state["weight"][0, head, i] > 0]
        newest = sorted(range(15), key=lambda i: -int(step.tokens[0, head, i]))[:4]
        others = [i for i in range(15) if i not in residual and i not in newest]
        goes = min(others, key=lambda i: float(received[i]))
        likeness = {
            i: float(keys[goes] @ keys[i])
            if similarity == "dot"
            else -float((keys[goes] - keys[i]).square().sum())
            for i in residual
        }
        to = max(likeness, key=likeness.__getitem__)
        kept = [i for i in range(15) if i != goes]
        assert ours.chosen[0, head].tolist() == kept
        mean = (keys[goes] + weight[to] * keys[to]) / (1 + weight[to])
        assert torch.allclose(ours.keys[0, head, kept.index(to)], mean, atol=1e-6)
        assert ours.state["weight"][0, head, kept.index(to)] == weight[to] + 1
        for i in kept:
            if i != to:
                assert torch.equal(ours.keys[0, head, kept.index(i)], keys[i])


def test_every_token_counts_once_and_means_do_not_depend_on_the_order() -> None:
    policy, view = ZeroMerge(keep_tokens=10, merged_entries=1, recent_share=0.2), random_view(24)
    went: list[Counter[int]] = [Counter(), Counter()]
    before, shown, sums = _after(policy, view), view, view.keys.sum(2)
    for step in range(6):
        shown = _step(shown, before, seed=20 + step)
        sums = sums + shown.keys[:, :, -1]
        before = _after(policy, shown)
        assert before.keys is not None
        weights = before.state["weight"].clamp(min=1)
        assert (weights.sum(-1) == 25 + step).all()
        # the merged entry is the plain mean of all that went into it
        assert torch.allclose((weights[..., None] * before.keys).sum(2), sums, atol=1e-4)
        for head in range(2):
            went[head].update(shown.tokens[0, head].tolist())
    assert all(counts[26] > 0 for counts in went)


def test_merging_equal_entries_changes_nothing() -> None:
    view = view_of(torch.ones(9, 4), torch.ones(9, 4) * 3, torch.ones(9, 4))
    ours = _after(ZeroMerge(keep_tokens=4), view)
    assert ours.keys is not None
    assert torch.equal(ours.keys, torch.ones(1, 1, 4, 4))
    bias = ZeroMerge().bias(ours.state)
    assert bias is not None
    # the merged entry has the attention of the six it stands for
    shares = torch.softmax(torch.zeros(4) + bias[0, 0], 0)
    assert torch.allclose(shares.max(), torch.tensor(6 / 9))


def test_with_a_window_few_queries_vote_and_votes_are_pooled() -> None:
    view = random_view(40)
    policy = ZeroMerge(keep_tokens=12, window=8, kernel=5)
    assert policy.query_rows(40) == 8
    assert view.queries is not None
    few = dataclasses.replace(view, queries=view.queries[:, :, -8:])
    rows = view.attention(8) * (0.98 ** torch.arange(7, -1, -1))[:, None]
    plain = rows.sum(-2).mean(2)
    pooled = torch.stack([plain[..., max(0, i - 2) : i + 3].amax(-1) for i in range(40)], -1)
    assert torch.allclose(policy.observe(few)["received"], pooled, atol=1e-6)
    kept = policy.keep(_told(policy, few), 12)
    assert torch.equal(kept, _after(policy, few).chosen)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_little_room(limit: int) -> None:
    ours = _after(ZeroMerge(keep_tokens=limit, merged_entries=5), random_view(20))
    assert ours.chosen.shape[-1] == limit
    assert (ours.state["weight"].clamp(min=1).sum(-1) == 20).all()


def test_a_share_of_merged_entries() -> None:
    ours = _after(ZeroMerge(keep_tokens=20, recent_share=0.5, merged_share=0.3), random_view(40))
    assert ((ours.state["weight"] > 0).sum(-1) == 3).all()


def test_what_is_protected_is_never_merged() -> None:
    policy, view = ZeroMerge(keep_tokens=12, protect_first=5), random_view(30)
    before = _after(policy, view)
    for step in range(4):
        assert before.keys is not None
        assert torch.equal(before.chosen[..., :5], torch.arange(5).expand(1, 2, 5))
        assert torch.equal(before.keys[:, :, :5], view.keys[:, :, :5])
        view = _step(view, before, seed=40 + step)
        before = _after(policy, view)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"merged_entries": 0}, "merged_entries must be at least 1"),
        ({"merged_share": 0.0}, r"merged_share must be in \(0, 1\]"),
        ({"forgetting": 1.1}, r"forgetting must be in \[0, 1\]"),
        ({"compensation": -1.0}, "compensation must be in"),
        ({"similarity": "cosine"}, "unknown similarity 'cosine'"),
        ({"merged_score": "mean"}, "unknown merged_score 'mean'"),
        ({"window": 0}, "window must be at least 1"),
        ({"kernel": 4}, "kernel must be odd"),
    ],
)
def test_options_out_of_range(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ZeroMerge(**options)  # type: ignore[arg-type]
