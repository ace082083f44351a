"""Bipartite matching, against pairs found one by one and against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.matching import Matching, bipartite_match, joins_per_round, largest_round, match_rounds
from streamprune.ops.similarity import frame_grams

# tokens 0 and 1 alike, tokens 2 and 3 nearly alike
PAIRS = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.1, 3.0]]])


def joined_one_by_one(metric: torch.Tensor, count: int) -> dict[int, int]:
    """{even token: odd token} of one frame, in float64 without a matrix product."""
    unit = metric.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    found = []
    for even in range(0, len(unit), 2):
        cosine = [float(unit[even] @ unit[odd]) for odd in range(1, len(unit), 2)]
        found.append((max(cosine), even, 2 * int(np.argmax(cosine)) + 1))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    return {even: odd for _, even, odd in found[:count]}


def joined(matching: Matching, frame: int) -> dict[int, int]:
    """{token: the token whose slot it went to}, without those that hold a slot."""
    held = matching.kept[frame][matching.slot[frame]].tolist()
    return {token: holder for token, holder in enumerate(held) if token != holder}


@pytest.mark.parametrize(("tokens", "count"), [(12, 6), (13, 4), (50, 20), (49, 24), (2, 1)])
def test_the_most_alike_even_tokens_join_their_best_odd_one(tokens: int, count: int) -> None:
    metric = torch.randn(3, tokens, 6, generator=torch.Generator().manual_seed(tokens))
    matching = bipartite_match(metric, count)
    for frame in range(3):
        expected = joined_one_by_one(metric[frame], count)
        assert joined(matching, frame) == expected
        holders = [token for token in range(tokens) if token not in expected]
        assert sorted(matching.kept[frame].tolist()) == holders
        assert matching.slot[frame][matching.kept[frame]].tolist() == list(range(tokens - count))


def test_the_untouched_even_tokens_come_first_most_alike_first() -> None:
    metric = torch.tensor([[[1.0, 0], [1, 0.1], [0.5, 1], [0, 1], [-1, -1], [-1, 0]]])
    assert bipartite_match(metric, 1).kept.tolist() == [[2, 4, 1, 3, 5]]
    # with a class token they stand in order
    assert bipartite_match(metric, 1, class_token=True).kept.tolist() == [[0, 4, 1, 3, 5]]


def test_means_weighted_by_size_and_their_copies_back() -> None:
    values = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    merged, size = bipartite_match(PAIRS, 2).merge(values)
    assert merged.flatten().tolist() == [1.5, 3.5]
    assert size.tolist() == [[2.0, 2.0]]
    matching = bipartite_match(PAIRS, 1)
    merged, size = matching.merge(values, torch.tensor([[3.0, 1.0, 1.0, 1.0]]))
    assert sorted(size.flatten().tolist()) == [1.0, 1.0, 4.0]
    assert matching.unmerge(merged).flatten().tolist() == [1.25, 1.25, 3.0, 4.0]


def test_what_is_merged_adds_up_round_after_round() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(2, 37, 8, generator=generator)
    merged, size = values, torch.ones(2, 37)
    for count in (18, 9, 3):
        merged, size = bipartite_match(merged, count).merge(merged, size)
    assert size.shape == (2, 7)
    assert size.sum(1).tolist() == [37.0, 37.0]
    torch.testing.assert_close((merged * size[..., None]).sum(1), values.sum(1))


@pytest.mark.parametrize("equal_shares", [False, True])
def test_rounds_on_inner_products_are_rounds_on_features(equal_shares: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    values, size = torch.randn(3, 41, 8, generator=generator), torch.rand(3, 41, generator=generator) + 0.5
    counts = (20, 7, 7)
    rounds = match_rounds(frame_grams(values), counts, size=size, equal_shares=equal_shares)
    merged, mass = values, None if equal_shares else size
    slot = kept = torch.arange(41).expand(3, -1)
    for count in counts:
        matching = bipartite_match(merged, count)
        merged, total = matching.merge(merged, mass)
        mass = None if equal_shares else total
        slot, kept = matching.slot.gather(1, slot), kept.gather(1, matching.kept)
    assert torch.equal(rounds.slot, slot)
    assert torch.equal(rounds.kept, kept)
    blend = torch.zeros(3, 7, 41).scatter(1, slot[:, None], rounds.weight[:, None])
    torch.testing.assert_close(blend @ values, merged)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("distillation_token", [False, True])
def test_special_tokens_stay_and_nobody_joins_them(class_token: bool, distillation_token: bool) -> None:
    metric = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(1)).abs()
    metric[:, :2] = 1.0
    given = {"class_token": class_token, "distillation_token": distillation_token}
    matching = bipartite_match(metric, 99, **given)
    assert matching.kept.shape == (2, 11 - largest_round(11, **given))
    for frame in range(2):
        found = joined(matching, frame)
        if class_token:
            assert int(matching.kept[frame, 0]) == 0
            assert 0 not in found
        if distillation_token:
            assert 1 not in found.values()


@pytest.mark.parametrize(
    ("tokens", "class_token", "distillation_token", "most"),
    [
        (8, False, False, 4),
        (9, False, False, 4),
        (9, True, False, 4),
        (9, True, True, 3),
        (1, True, False, 0),
    ],
)
def test_a_round_joins_at_most_half(
    tokens: int, class_token: bool, distillation_token: bool, most: int
) -> None:
    assert largest_round(tokens, class_token=class_token, distillation_token=distillation_token) == most


@pytest.mark.parametrize(("tokens", "count"), [(1, 3), (6, 0), (6, -2)])
def test_nothing_to_join_leaves_the_tokens_as_they_stand(tokens: int, count: int) -> None:
    matching = bipartite_match(torch.randn(2, tokens, 3), count)
    assert matching.slot.tolist() == matching.kept.tolist() == [list(range(tokens))] * 2


def test_nobody_joins_the_only_odd_token_when_it_is_special() -> None:
    matching = bipartite_match(torch.randn(1, 3, 4), 1, distillation_token=True)
    assert matching.kept.tolist() == [[0, 1, 2]]


def test_equal_tokens_and_zeros_go_to_the_lower_token() -> None:
    for metric in (torch.ones(1, 8, 4), torch.zeros(1, 8, 4)):
        assert joined(bipartite_match(metric, 3), 0) == {0: 1, 2: 1, 4: 1}


def test_half_precision_matches_as_its_float32_copy() -> None:
    metric = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    half, full = bipartite_match(metric, 7), bipartite_match(metric.float(), 7)
    assert torch.equal(half.slot, full.slot)
    merged, _ = half.merge(metric)
    assert torch.equal(merged, full.merge(metric.float())[0].to(torch.bfloat16))


@pytest.mark.parametrize(
    ("tokens", "target", "rounds", "counts"),
    [
        (196, 19, None, [98, 49, 24, 6]),
        (196, 98, None, [98]),
        (196, 19, 6, [30, 30, 30, 29, 29, 24, 5]),
        (16, 4, 1, [8, 4]),
        (9, 1, None, [4, 2, 1, 1]),
        (9, 9, None, []),
    ],
)
def test_schedules(tokens: int, target: int, rounds: int | None, counts: list[int]) -> None:
    assert joins_per_round(tokens, target, rounds=rounds) == counts
    assert tokens - sum(counts) == target
