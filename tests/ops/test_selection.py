"""Ties go to the lower index."""

from __future__ import annotations

import torch

from streamprune.ops.selection import highest, lowest, marked, marked_places


def test_best_first_and_ties_to_the_lower_index() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    assert highest(scores, 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert lowest(scores, 3).tolist() == [[0, 3, 1], [0, 1, 2]]


def test_more_than_there_are_means_all_and_none_means_none() -> None:
    assert highest(torch.tensor([1.0, 2.0]), 5).tolist() == [1, 0]
    assert lowest(torch.tensor([1.0, 2.0]), 0).tolist() == []


def test_marks_and_back() -> None:
    places = torch.tensor([[4, 0], [2, 1]])
    mask = marked(places, 5)
    assert mask.tolist() == [[True, False, False, False, True], [False, True, True, False, False]]
    assert marked_places(mask).tolist() == [[0, 4], [1, 2]]
    assert marked_places(~mask).tolist() == [[1, 2, 3], [0, 3, 4]]


def test_nothing_marked() -> None:
    mask = marked(torch.zeros(3, 0, dtype=torch.int64), 4)
    assert not mask.any()
    assert marked_places(mask).shape == (3, 0)
