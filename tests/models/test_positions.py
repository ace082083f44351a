from __future__ import annotations

import pytest
import torch

from streamprune.errors import UnknownNameError
from streamprune.models.positions import positions_1d


def test_keep_leaves_gaps_where_rows_were_dropped() -> None:
    kept = torch.tensor([0, 2, 5])
    assert positions_1d(kept, before=3, visual=6, after=2).tolist() == [[0, 1, 2, 3, 5, 8, 9, 10]]


def test_renumber_closes_the_gaps() -> None:
    kept = torch.tensor([0, 2, 5])
    positions = positions_1d(kept, before=3, visual=6, after=2, rule="renumber")
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize("rule", ["keep", "renumber"])
def test_both_rules_agree_when_all_rows_are_kept(rule: str) -> None:
    positions = positions_1d(torch.arange(6), before=3, visual=6, after=2, rule=rule)  # type: ignore[arg-type]
    assert positions.tolist() == [list(range(11))]


def test_text_at_neither_end_is_needed() -> None:
    assert positions_1d(torch.tensor([1]), before=0, visual=4, after=0).tolist() == [[1]]


def test_unknown_rules_are_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'keep'"):
        positions_1d(torch.arange(2), before=0, visual=2, after=0, rule="keeep")  # type: ignore[arg-type]
