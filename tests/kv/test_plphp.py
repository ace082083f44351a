"""PLPHP on views whose attention is written down by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from streamprune.kv.plphp import PLPHP
from streamprune.kv.view import LayerView
from streamprune.ops.selection import ranks_within
from tests.kv.made_view import chosen, random_view, view_of


def _paying(last: list[float], segments: list[int]) -> LayerView:
    """A view whose last query pays exactly ``last`` to the entries."""
    entries = len(last)
    view = view_of(torch.eye(entries), queries=torch.tensor(last).log()[None])
    return dataclasses.replace(view, segments=torch.tensor(segments).expand(1, 1, entries))


# one token of text, ten visual ones, one token of text
def _looking(mass: float) -> LayerView:
    return _paying([1 - mass - 0.01, *[mass / 10] * 10, 0.01], [-1, *[0] * 10, -1])


@pytest.mark.parametrize(("mass", "visual"), [(0.4, 7), (0.2, 5), (0.05, 2)])
def test_a_layer_keeps_as_much_as_it_looks(mass: float, visual: int) -> None:
    view = _looking(mass)
    # the balanced half of the ten, and a quarter of them more or less
    policy = PLPHP(keep_ratio=(2 + 7.5) / 12, spread=0.25, attentive=0.3, indifferent=0.1)
    assert policy.attention_to_video(view) == pytest.approx(mass, abs=1e-6)
    (kept,) = chosen(policy, view)
    assert len(kept) == 2 + visual
    assert {0, 11} <= set(kept)
    uniform = dataclasses.replace(policy, attentive=0.0, indifferent=0.0)
    assert len(chosen(uniform, view)[0]) == 2 + 7, "the budget, whatever it looks at"
    fixed = PLPHP(keep_tokens=2 + 7, spread=0.25)
    assert len(chosen(fixed, view)[0]) <= 2 + 7


def test_text_stays_however_little_a_layer_looks() -> None:
    policy = PLPHP(keep_tokens=3, spread=0.9)
    assert chosen(policy, _looking(0.05)) == [[0, 11]]
    with pytest.raises(ValueError, match="budget of 1 entries is smaller than the 2 that are protected"):
        chosen(PLPHP(keep_tokens=1), _looking(0.05))


def test_frames_lose_alike_unless_they_compete() -> None:
    small, large = torch.arange(10, 0, -1) / 1e4, torch.arange(20, 0, -1) / 1e3
    paid = [*small.tolist(), *large.tolist()]
    view = _paying([*paid, 1 - sum(paid)], [*[0] * 10, *[1] * 20, -1])
    uniform = PLPHP(keep_tokens=16, attentive=0.0, indifferent=0.0)
    assert chosen(uniform, view) == [[*range(5), *range(10, 20), 30]]
    assert chosen(dataclasses.replace(uniform, by_frame=False), view) == [[*range(10, 25), 30]]


def test_heads_choose_for_themselves_and_hold_equally_many() -> None:
    view = random_view(40)
    place = torch.arange(40)
    segments = torch.where((place < 3) | (place > 36), -1, (place - 3) // 17).expand(1, 2, 40)
    view = dataclasses.replace(view, segments=segments)
    policy = PLPHP(keep_tokens=16, attentive=0.0, indifferent=0.0)
    assert policy.query_rows(40) == 1
    first, second = chosen(policy, view)
    assert len(first) == len(second) == 16
    assert first != second
    assert view.queries is not None
    for head, kept in enumerate((first, second)):
        votes = torch.zeros(40)
        for query_head in (2 * head, 2 * head + 1):
            votes += torch.softmax(view.queries[0, query_head, -1] @ view.keys[0, head].T, 0)
        best = [
            sorted(sorted(frame, key=lambda i: -float(votes[i]))[:5])
            for frame in (range(3, 20), range(20, 37))
        ]
        assert kept == [0, 1, 2, *best[0], *best[1], 37, 38, 39]


def test_ranks_and_sizes_of_groups() -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0, 5.0, 2.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    groups = torch.tensor([[7, 7, 0, 7, 0], [1, 1, 1, 1, 1]])
    rank, size = ranks_within(scores, groups)
    assert rank.tolist() == [[1, 2, 0, 0, 1], [1, 2, 3, 4, 0]]
    assert size.tolist() == [[3, 3, 2, 3, 2], [5] * 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spread": 1.5}, r"spread must be in \[0, 1\]"),
        ({"attentive": -0.1}, r"attentive must be in \[0, 1\]"),
        ({"indifferent": 2.0}, r"indifferent must be in \[0, 1\]"),
        ({"indifferent": 0.5}, r"indifferent=0.5 must be no more than attentive=0.3"),
        ({"by_frame": 1}, "by_frame must be True or False"),
    ],
)
def test_options_out_of_range(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PLPHP(**options)  # type: ignore[arg-type]
