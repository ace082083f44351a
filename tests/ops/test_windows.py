"""Windows of a grid, and ranks inside parts."""

from __future__ import annotations

import torch

from streamprune.ops.windows import rank_in_parts, window_of


def test_windows_are_numbered_row_by_row() -> None:
    assert window_of(4, 4, 2).reshape(4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    assert window_of(24, 24, 6).bincount().tolist() == [36] * 16


def test_leftover_rows_and_columns_belong_to_the_last_windows() -> None:
    assert window_of(3, 5, 2).reshape(3, 5).tolist() == [[0, 0, 1, 1, 1]] * 3
    assert window_of(5, 4, 2).reshape(5, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 3
    assert window_of(2, 3, 7).tolist() == [0] * 6


def test_ranks_count_within_a_part() -> None:
    part = torch.tensor([0, 1, 0, 1, 1])
    scores = torch.tensor([[1.0, 5.0, 2.0, 9.0, 7.0], [4.0, 1.0, 3.0, 2.0, 3.0]])
    assert rank_in_parts(scores, part).tolist() == [[1, 2, 0, 0, 1], [0, 2, 1, 1, 0]]


def test_ties_go_to_the_lower_token() -> None:
    assert rank_in_parts(torch.ones(1, 6), torch.tensor([1, 0, 1, 0, 0, 1])).tolist() == [[0, 0, 1, 1, 2, 2]]


def test_against_sorting_each_part() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (4, 40), generator=generator).float()
    part = torch.randint(0, 7, (40,), generator=generator)
    rank = rank_in_parts(scores, part)
    for frame in range(4):
        for p in range(7):
            places = (part == p).nonzero()[:, 0].tolist()
            ordered = sorted(places, key=lambda i: (-float(scores[frame, i]), i))
            assert [int(rank[frame, i]) for i in ordered] == list(range(len(places)))
