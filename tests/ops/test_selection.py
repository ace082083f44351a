"""Ties go to the lower index."""

from __future__ import annotations

import torch

from streamprune.ops.selection import highest, lowest


def test_best_first_and_ties_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert highest(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert lowest(scores, 3).tolist() == [[0, 3, 1], [0, 1, 2]]


def test_more_than_there_are_means_all_and_none_means_none() -> None:
    assert highest(torch.tensor([1.0, 2.0]), 5).tolist() == [1, 0]
    assert lowest(torch.tensor([1.0, 2.0]), 0).tolist() == []
