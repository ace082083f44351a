"""SAINT against a float64 reference, and what it does by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.saint import SAINT, drops_per_round
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid
from tests.contract.table import clip

Floats = npt.NDArray[np.float64]


def cosine_of(frame: torch.Tensor) -> Floats:
    x = frame.flatten(0, -2).double().numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x @ x.T)


def full_graph(cosine: Floats, target: int, *, as_released: bool) -> list[int]:
    left, part = list(range(len(cosine))), 16
    while len(left) > target:
        drop = min(len(left) - target, max(1, len(left) // part))
        sums = {token: sum(cosine[token, other] for other in left) for token in left}
        gone = sorted(left, key=lambda token: (-sums[token], token))[:drop]
        left = [token for token in left if token not in gone]
        part = drop if as_released else 16
    return left


def bipartite(cosine: Floats, threshold: float, at_least: int, gamma: float) -> tuple[list[int], int]:
    """Even tokens, the most redundant first, and how many are redundant."""
    score, redundant = {}, 0
    for even in range(0, len(cosine), 2):
        row = cosine[even, 1::2]
        valid = row[row >= threshold]
        redundant += len(valid) >= at_least
        score[even] = len(valid) * np.exp(gamma * (valid.mean() - threshold)) if len(valid) else row.mean()
    return sorted(score, key=lambda token: (-score[token], token)), redundant


@pytest.mark.parametrize("as_released", [True, False])
@pytest.mark.parametrize(("shape", "keep_ratio"), [((3, 7, 7), 0.2), ((2, 5, 6), 0.5), ((1, 9, 9), 0.05)])
def test_the_full_graph_against_the_reference(
    as_released: bool, shape: tuple[int, int, int], keep_ratio: float
) -> None:
    features, per_frame = clip(*shape), shape[1] * shape[2]
    reduction = reduce_tokens(features, "saint", keep_ratio=keep_ratio, as_released=as_released)
    target = Budget(keep_ratio).tokens(per_frame)
    expected = [
        token + frame * per_frame
        for frame in range(shape[0])
        for token in full_graph(cosine_of(features[frame]), target, as_released=as_released)
    ]
    assert reduction.index.tolist() == expected


@pytest.mark.parametrize("same_count", [True, False])
@pytest.mark.parametrize(("threshold", "min_similar"), [(0.3, 5), (0.4, 4), (0.6, 2)])
def test_the_bipartite_form_against_the_reference(
    same_count: bool, threshold: float, min_similar: int
) -> None:
    features = clip(5, 5, 7, 8)
    found = [bipartite(cosine_of(frame), threshold, min_similar, 10.0) for frame in features]
    counts = [redundant for _, redundant in found]
    assert len(set(counts)) > 1
    if same_count:
        counts = [int(np.mean(counts))] * 5
    emitted = []
    for frame, ((ranking, _), count) in enumerate(zip(found, counts, strict=True)):
        stays = [*ranking[count:], *range(1, 35, 2)] if count else list(range(35))
        emitted += [token + frame * 35 for token in stays]
    reduction = reduce_tokens(
        features,
        "saint",
        similarity_threshold=threshold,
        min_similar=min_similar,
        same_count=same_count,
    )
    assert reduction.index[reduction.order].tolist() == emitted


def test_odd_tokens_unlike_all_even_ones_drop_nothing_and_equal_ones_drop_all_even_ones() -> None:
    apart = torch.eye(2).repeat(6, 1).reshape(1, 3, 4, 2)
    assert reduce_tokens(apart, "saint", similarity_threshold=0.7).is_identity
    alike = torch.ones(2, 3, 4, 2)
    reduction = reduce_tokens(alike, "saint", similarity_threshold=0.7)
    assert reduction.index.tolist() == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
    assert reduce_tokens(alike, "saint", similarity_threshold=0.7, min_similar=7).is_identity
    assert reduce_tokens(alike, "saint", similarity_threshold=1.5).is_identity
    assert reduce_tokens(torch.ones(3, 1, 1, 2), "saint", similarity_threshold=0.7).is_identity


@pytest.mark.parametrize(
    ("tokens", "target", "as_released", "drops"),
    [
        (576, 375, True, [36, 15, 35, 14, 34, 13, 33, 12, 9]),
        (576, 375, False, [36, 33, 31, 29, 27, 26, 19]),
        (10, 7, True, [1, 2]),
        (10, 7, False, [1, 1, 1]),
        (40, 40, True, []),
    ],
)
def test_rounds_of_the_full_graph(tokens: int, target: int, as_released: bool, drops: list[int]) -> None:
    assert drops_per_round(tokens, target, as_released=as_released) == drops
    assert tokens - sum(drops) == target


def test_keys_decide_where_they_are_asked_for() -> None:
    features, keys = clip(2, 4, 4), clip(2, 4, 4, 6, scene=1)
    by_keys = reduce_tokens(features, "saint", keep_ratio=0.5, metric="keys", signals={"keys": keys})
    assert torch.equal(by_keys.index, reduce_tokens(keys, "saint", keep_ratio=0.5).index)
    assert not torch.equal(by_keys.index, reduce_tokens(features, "saint", keep_ratio=0.5).index)
    assert SAINT(metric="keys").needs == ("keys",)


def test_the_count_is_unknown_where_a_threshold_decides() -> None:
    assert SAINT(similarity_threshold=0.7).count(VideoGrid(3, 4, 4)) is None
    assert SAINT(budget=Budget(keep_ratio=0.5)).count(VideoGrid(3, 3, 3)) == 12


def test_defaults() -> None:
    assert asdict(SAINT()) == {
        "budget": asdict(Budget()),
        "similarity_threshold": None,
        "min_similar": 5,
        "sharpness": 10.0,
        "same_count": False,
        "as_released": True,
        "metric": "features",
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"similarity_threshold": 3}, ValueError),
        ({"similarity_threshold": "high"}, TypeError),
        ({"min_similar": 0}, ValueError),
        ({"sharpness": -1}, ValueError),
        ({"same_count": 1}, TypeError),
        ({"as_released": None}, TypeError),
        ({"metric": "values"}, ValueError),
        ({"budget": Budget(keep_ratio=0.5), "similarity_threshold": 0.7}, ValueError),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(options)[-1]):
        SAINT(**options)
