"""AIM's merging against a float64 reference and by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.aim import AIM
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid
from tests.contract.table import clip
from tests.pre_llm.matching_reference import rounds_reference


@pytest.mark.parametrize(
    ("shape", "options", "counts"),
    [
        ((3, 6, 6), {"rounds": 2}, [18, 9]),
        ((2, 5, 5), {"rounds": 3}, [12, 6, 3]),
        ((2, 5, 7), {"keep_ratio": 0.2}, [17, 9, 2]),
        ((3, 6, 6), {"keep_ratio": 0.7}, [11]),
    ],
)
def test_against_the_reference(
    shape: tuple[int, int, int], options: dict[str, Any], counts: list[int]
) -> None:
    features, per_frame = clip(*shape), shape[1] * shape[2]
    assert (
        AIM(rounds=options.get("rounds"), budget=Budget(options.get("keep_ratio"))).joins(VideoGrid(*shape))
        == counts
    )
    reduction = reduce_tokens(features, "aim", **options)
    emitted = reduction.features[reduction.order].reshape(shape[0], -1, features.shape[-1])
    row_of_slot = reduction.order.reshape(shape[0], -1)
    for frame in range(shape[0]):
        slots, values = rounds_reference(
            features[frame].reshape(per_frame, -1).double().numpy(), counts, equal_shares=True
        )
        np.testing.assert_allclose(emitted[frame], values, atol=1e-5)
        for slot, expected in enumerate(slots):
            members = (reduction.source == row_of_slot[frame, slot]).nonzero()[:, 0] - frame * per_frame
            assert set(members.tolist()) == expected


@pytest.mark.parametrize(
    ("tokens", "rounds", "kept"),
    [(196, 2, 49), (169, 2, 43), (169, 1, 85), (196, 5, 7), (3, 9, 2), (1, 2, 1)],
)
def test_released_rounds(tokens: int, rounds: int, kept: int) -> None:
    assert AIM(rounds=rounds).count(VideoGrid(5, 1, tokens)) == 5 * kept
    reduction = reduce_tokens(torch.randn(5, 1, tokens, 4), "aim", rounds=rounds)
    assert len(reduction) == 5 * kept
    assert reduction.is_identity == (tokens == 1)


def test_two_rounds_and_a_quarter_are_the_same() -> None:
    features = clip(3, 8, 8)
    released, asked = (
        reduce_tokens(features, "aim", rounds=2),
        reduce_tokens(features, "aim", keep_ratio=0.25),
    )
    assert torch.equal(released.index, asked.index)
    assert torch.equal(released.features, asked.features)


def test_pairs_by_hand() -> None:
    pairs = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 8.0], [0.0, 12.0]]).reshape(1, 2, 2, 2)
    reduction = reduce_tokens(pairs, "aim", rounds=1)
    assert reduction.features.tolist() == [[2.0, 0.0], [0.0, 10.0]]
    assert reduction.index.tolist() == [1, 3]


def test_later_rounds_do_not_weigh_by_what_a_token_stands_for() -> None:
    # 0 and 2 go first; what they make counts no more than token 3 when the two come together
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [2.0, 1.0]]).reshape(1, 1, 4, 2)
    reduction = reduce_tokens(features, "aim", keep_tokens=1)
    torch.testing.assert_close(reduction.features, torch.tensor([[1.5, 0.5]]))
    assert reduction.index.tolist() == [3]


def test_defaults() -> None:
    assert asdict(AIM()) == {"budget": asdict(Budget()), "rounds": None}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"rounds": 0}, ValueError, "rounds must be at least 1"),
        ({"rounds": "two"}, TypeError, "rounds"),
        ({"rounds": 2, "budget": Budget(keep_ratio=0.5)}, ValueError, "leave out rounds or the budget"),
        ({"rounds": 2, "budget": Budget(keep_tokens=5)}, ValueError, "leave out rounds or the budget"),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        AIM(**options)
