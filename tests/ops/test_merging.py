"""The weights of a blend, against the arithmetic written out."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops.merging import add_member_means, blend_into_anchors


def blended(
    anchors: list[int], members: list[int], joined: list[int], floor: float
) -> dict[int, dict[int, float]]:
    """{anchor token: {token: weight}}."""
    target, token, weight = blend_into_anchors(
        torch.tensor(anchors, dtype=torch.int64),
        torch.tensor(members, dtype=torch.int64),
        torch.tensor(joined, dtype=torch.int64),
        floor,
    )
    rows: dict[int, dict[int, float]] = {anchor: {} for anchor in anchors}
    for t, k, w in zip(target.tolist(), token.tolist(), weight.tolist(), strict=True):
        assert k not in rows[t], "every pair once"
        rows[t][k] = w
    return rows


def test_members_share_what_the_anchor_leaves() -> None:
    rows = blended([10, 20, 30], [1, 2, 3, 4], [0, 1, 1, 1], 0.6)
    assert rows[10] == pytest.approx({10: 0.6, 1: 0.4})
    assert rows[20] == pytest.approx({20: 0.6, 2: 0.4 / 3, 3: 0.4 / 3, 4: 0.4 / 3})
    assert rows[30] == {30: 1.0}


def test_without_a_floor_it_is_the_plain_mean() -> None:
    assert blended([9], [1, 2, 3], [0, 0, 0], 0.0)[9] == pytest.approx({9: 0.25, 1: 0.25, 2: 0.25, 3: 0.25})


def test_a_floor_of_one_leaves_anchors_untouched() -> None:
    assert blended([9], [1, 2], [0, 0], 1.0)[9] == {9: 1.0, 1: 0.0, 2: 0.0}


def test_an_anchor_may_be_its_own_member_or_anothers() -> None:
    # 5 joins itself and 6 joins 5 as well: n = 2, w = max(1/3, 0.6)
    rows = blended([5, 6], [5, 6], [0, 0], 0.6)
    assert rows[5] == pytest.approx({5: 0.6 + 0.2, 6: 0.2})
    assert rows[6] == {6: 1.0}


def test_a_token_may_join_several_anchors() -> None:
    rows = blended([5, 6], [1, 1], [0, 1], 0.5)
    assert rows == {5: {5: 0.5, 1: 0.5}, 6: {6: 0.5, 1: 0.5}}


def test_nothing_to_merge() -> None:
    assert blended([], [], [], 0.6) == {}


def test_adding_means_counts_the_anchor_once_and_its_members_together_once() -> None:
    target, token, weight = add_member_means(
        torch.tensor([10, 20, 30]), torch.tensor([1, 2, 3, 4]), torch.tensor([2, 0, 2, 2])
    )
    entries = zip(target.tolist(), token.tolist(), weight.tolist(), strict=True)
    assert {(t, k): pytest.approx(w) for t, k, w in entries} == {
        (10, 10): 1,
        (20, 20): 1,
        (30, 30): 1,
        (10, 2): 1,
        (30, 1): 1 / 3,
        (30, 3): 1 / 3,
        (30, 4): 1 / 3,
    }
