"""Ties go to the lower index."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.selection import entries_at, highest, lowest, marked, marked_places


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


@pytest.mark.parametrize("dim", [(), (5,)], ids=["numbers", "entries"])
def test_entries_are_what_gather_finds(dim: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 7, *dim, generator=generator).transpose(0, 1)  # a view
    places = torch.stack([torch.randperm(7, generator=generator)[:4] for _ in range(6)]).reshape(3, 2, 4)
    wide = places.reshape(*places.shape, *(1 for _ in dim)).expand(*places.shape, *dim)
    found = entries_at(values, places)
    assert torch.equal(found, values.gather(2, wide))
    assert found.untyped_storage().nbytes() == found.nbytes
