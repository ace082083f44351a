"""What belongs to tokens shares their fate, whatever method decided it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from streamprune.errors import InvalidValueError
from streamprune.reduce import run_reducer
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

GRID = VideoGrid(2, 2, 3)


def make_tokens(carried: torch.Tensor | None) -> VisualTokens:
    return VisualTokens(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), GRID, carried=carried)


def test_selected_merged_and_untouched() -> None:
    carried = torch.arange(24.0).reshape(12, 2)
    tokens = make_tokens(carried)
    assert Reduction.identity(tokens).carried is carried
    chosen = Reduction.select(tokens, torch.tensor([7, 2, -1])).carried
    assert chosen is not None
    assert chosen.tolist() == [[4, 5], [14, 15], [0, 0]]
    entries = (torch.tensor([0, 0, 1]), torch.tensor([0, 4, 9]), torch.tensor([0.25, 0.75, 1.0]))
    merged = Reduction.merge(tokens, torch.tensor([4, 9]), entries).carried
    assert merged is not None
    assert merged.tolist() == [[6, 7], [18, 19]]


def test_nothing_is_carried_where_nothing_was_given() -> None:
    assert Reduction.select(make_tokens(None), torch.tensor([1])).carried is None


@dataclass
class ByHand:
    """A method that builds its Reduction itself and forgets what is carried."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        index = torch.tensor([3, 5])
        return Reduction(tokens.grid, index, tokens.features[index], torch.arange(2))


def test_a_method_of_the_users_own_need_not_know() -> None:
    carried = torch.arange(24.0).reshape(12, 2)
    found = run_reducer(ByHand(), make_tokens(carried)).carried
    assert found is not None
    assert torch.equal(found, carried[[3, 5]])


def test_a_row_for_every_token() -> None:
    with pytest.raises(InvalidValueError, match="carried must have one row per token \\(12\\), got 3"):
        make_tokens(torch.zeros(3, 2))
