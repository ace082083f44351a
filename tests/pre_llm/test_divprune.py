"""DivPrune: picks worked out by hand, rounding, and what is one set."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from streamprune.ops.diversity import greedy_max_min
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.divprune import DivPrune
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def angles(*degrees: float) -> torch.Tensor:
    """(1, 1, tokens, 2) one frame of unit vectors."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], -1)[None, None]


def order_of(features: torch.Tensor, **options: object) -> list[int]:
    reduction = reduce_tokens(features, "divprune", **options)  # type: ignore[arg-type]
    return reduction.index[reduction.order].tolist()


@pytest.mark.parametrize("token_set", ["clip", "frame"])
def test_angles_worked_out_by_hand(token_set: str) -> None:
    fan = angles(0, 10, 40, 100, 170)
    assert order_of(fan, keep_tokens=4, token_set=token_set) == [4, 0, 3, 2]
    assert order_of(fan, keep_tokens=1, token_set=token_set) == [4]


def test_fewer_tokens_are_the_first_of_more() -> None:
    features = draw(3, 4, 5, 8)
    most = order_of(features, keep_tokens=59)
    for count in (1, 10, 30):
        assert order_of(features, keep_tokens=count) == most[:count]


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"), [(576, 0.098, 56), (1152, 0.1, 115), (5, 0.5, 2), (7, 0.5, 4), (9, 0.01, 1)]
)
def test_the_share_is_rounded_half_to_even(tokens: int, ratio: float, kept: int) -> None:
    reduction = reduce_tokens(draw(1, 1, tokens, 6), "divprune", keep_ratio=ratio)
    assert len(reduction) == kept


def test_frames_as_sets_are_frames_alone() -> None:
    features = draw(4, 5, 5, 8)
    apart = order_of(features, keep_ratio=0.3, token_set="frame")
    alone = [order_of(frame[None], keep_ratio=0.3) for frame in features]
    assert apart == [token + 25 * t for t, picks in enumerate(alone) for token in picks]
    assert apart != order_of(features, keep_ratio=0.3)


def test_identical_frames_keep_what_differs_once_before_any_copy() -> None:
    frame = draw(1, 3, 4, 8)
    features = frame.expand(6, -1, -1, -1)
    assert {token % 12 for token in order_of(features, keep_tokens=12)} == set(range(12))
    distances = 1 - cosines(frame_grams(frame.reshape(1, 12, 8)))
    expected = greedy_max_min(distances, 12, first=torch.tensor([0]))[0]
    assert order_of(features, keep_tokens=12) == expected.tolist(), "all have copies: the first token starts"
    assert order_of(features, keep_tokens=15)[12:] == [12, 13, 14]


def test_kept_tokens_are_far_apart() -> None:
    features = draw(6, 5, 5, 16)
    kept = reduce_tokens(features, "divprune", keep_tokens=12).features
    drawn = reduce_tokens(features, "random", keep_tokens=12).features

    def closest(rows: torch.Tensor) -> float:
        cosine = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
        return float((1 - cosine).fill_diagonal_(math.inf).min())

    assert closest(kept) > 1.5 * closest(drawn)


def test_options() -> None:
    assert asdict(DivPrune())["token_set"] == "clip"
    assert DivPrune().count(VideoGrid(2, 3, 3)) == 18
    with pytest.raises(ValueError, match="unknown token_set of divprune 'frames'"):
        DivPrune(token_set="frames")  # type: ignore[arg-type]
