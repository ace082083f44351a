"""SafeWatch's picks against loops in numpy, by hand, and its counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.safewatch import SafeWatch, picked_by_any
from tests.in_llm.views import Array, made_view, numpy_attention, text_and


def numpy_scores(attention: Array, rows: list[range], visual: Array) -> Array:
    """Mean over heads and each policy's rows."""
    return np.array([attention[:, list(own)][:, :, visual].mean((0, 1)) for own in rows])


def numpy_shares(count: int, relevance: Array) -> list[int]:
    """In proportion, rounded down; what is left to the largest fractions."""
    exact = count * relevance / relevance.sum()
    shares = np.floor(exact + 1e-9).astype(int)
    for policy in np.argsort(-(exact - shares), kind="stable")[: count - shares.sum()]:
        shares[policy] += 1
    return [int(share) for share in shares]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fill", [False, True])
def test_equals_numpy(seed: int, fill: bool) -> None:
    view = made_view(tokens=30, before=4, after=10, seed=seed)
    visual = view.visual.numpy()
    scores = numpy_scores(
        numpy_attention(view.before),  # type: ignore[arg-type]
        [range(36, 39), range(39, 40), range(40, 43)],
        visual,
    )
    shares = numpy_shares(9, scores.mean(1))
    chosen: set[int] = set()
    for own, share in zip(scores, shares, strict=True):
        chosen |= set(np.argsort(-own)[:share].tolist())
    assert max(shares) <= len(chosen) <= sum(shares) == 9
    for token in np.argsort(-scores.mean(0)):
        if fill and len(chosen) < 9:
            chosen.add(int(token))
    method = SafeWatch(keep_tokens=9, policy_sizes=(3, 1, 3), policy_start=2, fill=fill)
    np.testing.assert_allclose(method.scores(view).numpy(), scores, atol=1e-7)
    assert method.decide(view).kept.tolist() == text_and(view, np.array(sorted(chosen)))


@pytest.mark.parametrize("seed", range(3))
def test_one_policy_keeps_its_best(seed: int) -> None:
    view = made_view(tokens=40, after=6, seed=seed)
    attention = numpy_attention(view.before)  # type: ignore[arg-type]
    (scores,) = numpy_scores(attention, [range(view.rows - 6, view.rows)], view.visual.numpy())
    expected = text_and(view, np.argsort(-scores)[:4])
    assert SafeWatch().decide(view).kept.tolist() == expected
    assert SafeWatch(policy_sizes=(6,)).decide(view).kept.tolist() == expected


def test_picks_by_hand() -> None:
    scores = torch.tensor([[0.6, 0.0, 0.0, 0.3, 0.0], [0.1, 0.0, 0.2, 0.0, 0.0]])
    # three quarters of the attention is the first policy's
    assert picked_by_any(scores, 4).tolist() == [True, True, True, True, False]
    assert picked_by_any(scores, 1).tolist() == [True, False, False, False, False]
    same = torch.tensor([[0.1, 0.4, 0.2], [0.1, 0.4, 0.2]])
    assert picked_by_any(same, 2).tolist() == [False, True, False]
    assert not picked_by_any(torch.zeros(2, 3), 2)[1:].any()


def test_policies_that_agree_leave_room_that_can_be_filled() -> None:
    view = made_view(tokens=20, after=8)
    layer: Any = view.before
    layer.all_queries[:] = layer.all_queries[:, -1:]
    layer.angles[:] = 0
    for fill, left in ((False, 3), (True, 6)):
        method = SafeWatch(keep_tokens=6, policy_sizes=(4, 4), fill=fill)
        assert len(method.decide(view).kept) == view.rows - 20 + left


@pytest.mark.parametrize(("depth", "cut"), [(32, 8), (28, 7), (4, 1)])
def test_a_quarter_of_the_way_up(depth: int, cut: int) -> None:
    assert SafeWatch().checked_cuts(depth) == (cut,)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": 0}, ValueError, "layer must be"),
        ({"policy_sizes": (3, 0)}, ValueError, "policy_sizes must be at least 1"),
        ({"policy_sizes": ()}, ValueError, "policy_sizes must name one"),
        ({"policy_sizes": 3}, TypeError, "policy_sizes must be a list"),
        ({"policy_start": 2}, ValueError, "policy_start must be 0 without"),
        ({"fill": 1}, TypeError, "fill must be True or False"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SafeWatch(**options)


def test_policies_longer_than_the_prompt() -> None:
    with pytest.raises(ValueError, match="must fit into the 4 rows behind the video, got 5"):
        SafeWatch(policy_sizes=(2, 2), policy_start=1).decide(made_view(after=4))
