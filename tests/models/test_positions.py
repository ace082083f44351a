"""The rules for positions, on one axis and on three, and where text behind a video starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from streamprune.models.positions import clipped, kept_positions, text_behind_everything
from streamprune.positions import POSITION_RULES, Positions

# three tokens of text, six of a video, two of text
VISUAL = torch.tensor([False] * 3 + [True] * 6 + [False] * 2)
LINE = torch.arange(11)
COLUMNS = torch.tensor([0, 1, 2, 3, 5, 8, 9, 10])


def of_line(chosen: Positions | str, columns: torch.Tensor = COLUMNS) -> list[int]:
    found: list[int] = kept_positions(LINE, VISUAL, columns, Positions.read(chosen)).tolist()  # type: ignore[arg-type]
    return found


def test_keep_leaves_gaps_where_tokens_were_dropped() -> None:
    assert of_line("keep") == [0, 1, 2, 3, 5, 8, 9, 10]


def test_renumber_closes_the_gaps() -> None:
    assert of_line("renumber") == [0, 1, 2, 3, 4, 5, 6, 7]


def test_clipped_shortens_them() -> None:
    assert of_line(Positions("clipped", 1)) == [0, 1, 2, 3, 5, 7, 8, 9]


def test_clipped_lies_between_the_two_others() -> None:
    assert of_line(Positions("clipped", 0)) == of_line("renumber")
    assert of_line(Positions("clipped", 2)) == of_line("clipped") == of_line("keep")


@pytest.mark.parametrize("rule", POSITION_RULES)
@pytest.mark.parametrize("text_after", ["stock", "max"])
def test_all_rules_agree_when_all_tokens_are_kept(rule: Any, text_after: Any) -> None:
    assert of_line(Positions(rule, text_after=text_after), torch.arange(11)) == list(range(11))


def test_text_at_neither_end_is_needed() -> None:
    alone = kept_positions(torch.arange(4), torch.ones(4).bool(), torch.tensor([1]), Positions("clipped"))
    assert alone.tolist() == [1]


# two tokens of text, slices of 2 x 2 at times far apart, two tokens of text from where the rows end
GRID = torch.tensor(
    [
        [0, 1, 2, 2, 2, 2, 22, 22, 22, 22, 4, 5],
        [0, 1, 2, 2, 3, 3, 2, 2, 3, 3, 4, 5],
        [0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5],
    ]
)
IN_GRID = torch.tensor([False] * 2 + [True] * 8 + [False] * 2)


def test_clipping_moves_all_axes_alike() -> None:
    columns = torch.tensor([0, 1, 5, 6, 10, 11])
    found = kept_positions(GRID, IN_GRID, columns, Positions("clipped", 3))
    # between 5 and 22 three are left, and nobody's order or neighbour has changed
    assert found.tolist() == [[0, 1, 2, 9, 4, 5], [0, 1, 3, 2, 4, 5], [0, 1, 3, 2, 4, 5]]


def test_clipping_keeps_order_and_equality_and_only_shortens() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.randint(0, 400, (3, 1, 40), generator=generator)
    short = clipped(full, 4)
    for axis, moved in zip(full.flatten(0, 1), short.flatten(0, 1), strict=True):
        before, after = axis[:, None] - axis, moved[:, None] - moved
        assert torch.equal(before.sign(), after.sign())
        assert bool((after.abs() <= before.abs()).all())
    assert torch.diff(torch.unique(short)).max() == 5
    assert torch.equal(clipped(full, 400), full)


def test_text_can_start_behind_the_furthest_position_of_a_video() -> None:
    later = text_behind_everything(GRID, IN_GRID)
    assert torch.equal(later[:, :10], GRID[:, :10])
    assert later[:, 10:].tolist() == [[23, 24]] * 3
    kept = kept_positions(GRID, IN_GRID, torch.tensor([0, 1, 3, 10, 11]), Positions(text_after="max"))
    # the video's own length counts, not what was kept of it
    assert kept[:, -2:].tolist() == [[23, 24]] * 3


def test_what_follows_the_text_moves_with_it() -> None:
    again = torch.cat([GRID, GRID + 6], 1)
    moved = text_behind_everything(again, torch.cat([IN_GRID, IN_GRID]))
    second = moved[:, 12:]
    assert torch.equal(second[:, :10], GRID[:, :10] + 25)
    assert second[:, 10:].tolist() == [[48, 49]] * 3


def test_a_choice_is_read_from_a_name_or_its_fields() -> None:
    assert Positions.read("renumber") == Positions("renumber")
    assert Positions.read({"rule": "clipped", "max_gap": 3}) == Positions("clipped", 3)
    assert Positions.read(Positions(text_after="max")).text_after == "max"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("keeep", UnknownNameError, "Did you mean 'keep'"),
        (3, InvalidTypeError, "one of keep, renumber, clipped or a Positions, got 3"),
        ({"gap": 3}, UnknownNameError, "unknown positions option 'gap'"),
        (
            {"rule": "keep", "max_gap": 3},
            InvalidValueError,
            "max_gap=3 is for positions='clipped', got",
        ),
        ({"rule": "clipped", "max_gap": -1}, InvalidValueError, "max_gap must be at least 0"),
        ({"rule": "clipped", "max_gap": 1.5}, InvalidTypeError, "max_gap must be an integer"),
        ({"text_after": "last"}, UnknownNameError, "unknown text_after 'last'"),
    ],
)
def test_bad_choices_are_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Positions.read(given)
