"""Thinning out lists, against cases worked out by hand."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.duplicates import drop_duplicates


def table(tokens: int, pairs: dict[tuple[int, int], float]) -> torch.Tensor:
    """(1, tokens, tokens) symmetric similarities, 0 where not given."""
    similarity = torch.zeros(1, tokens, tokens)
    for (a, b), value in pairs.items():
        similarity[0, a, b] = similarity[0, b, a] = value
    return similarity


def test_the_closest_even_place_goes_and_odd_places_move_back() -> None:
    p, q, s, t = range(4)
    similarity = table(4, {(p, q): 0.9, (p, t): 0.1, (s, q): 0.2, (s, t): 0.3})
    ranked = torch.tensor([[p, q, s, t]])
    assert drop_duplicates(similarity, ranked, 3, step=8).tolist() == [[s, q, t]]


def test_two_at_places_of_one_parity_do_not_meet_in_that_round() -> None:
    similarity = table(4, {(0, 2): 1.0, (1, 3): 0.9, (0, 1): 0.2, (2, 3): 0.5})
    ranked = torch.tensor([[0, 1, 2, 3]])
    # 2 is closer to 3 than 0 is to 1; then [0, 1, 3]: 3 meets 1
    assert drop_duplicates(similarity, ranked, 2, step=1).tolist() == [[0, 1]]
    # both even places in one round
    assert drop_duplicates(similarity, ranked, 2, step=2).tolist() == [[1, 3]]


def test_what_stays_of_the_even_places_comes_most_redundant_first() -> None:
    similarity = table(6, {(0, 1): 0.1, (2, 3): 0.9, (4, 5): 0.5})
    ranked = torch.arange(6)[None]
    assert drop_duplicates(similarity, ranked, 5, step=1).tolist() == [[4, 0, 1, 3, 5]]


@pytest.mark.parametrize(("keep", "left"), [(4, [4, 1, 3, 0]), (1, [3]), (0, []), (5, [0, 1, 2, 3, 4])])
def test_odd_lengths_and_short_lists(keep: int, left: list[int]) -> None:
    similarity = table(5, {(0, 1): 0.1, (2, 3): 0.9, (4, 1): 0.4})
    thinned = drop_duplicates(similarity, torch.arange(5)[None], keep, step=8)
    assert sorted(thinned[0].tolist()) == sorted(left)


def test_ties_go_to_the_earlier_on_the_list_and_lists_do_not_mix() -> None:
    similarity = torch.ones(2, 4, 4)
    ranked = torch.tensor([[3, 2, 1, 0], [0, 1, 2, 3]])
    assert drop_duplicates(similarity, ranked, 3, step=8).tolist() == [[1, 2, 0], [2, 1, 3]]
