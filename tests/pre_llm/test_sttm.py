"""STTM against a float64 reference, and cells counted by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.sttm import STTM
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid
from tests.pre_llm.sttm_reference import sttm_reference


def smooth(frames: int, rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    """Features that change slowly over the grid and over time."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 6, -(-frames // 3), 3, 3, generator=generator)
    video = torch.nn.functional.interpolate(coarse, (frames, rows, cols), mode="trilinear")[0]
    noise = 0.25 * torch.randn(video.shape, generator=generator)
    return (video + noise).permute(1, 2, 3, 0)


@pytest.mark.parametrize("as_released", [True, False])
@pytest.mark.parametrize("weigh_by_area", [False, True])
@pytest.mark.parametrize(
    ("shape", "root_level", "spatial", "temporal"),
    [
        ((3, 8, 8), 1, 0.85, 0.7),
        ((4, 7, 7), 0, 0.8, 0.6),
        ((3, 11, 9), 1, 0.7, 0.8),
        ((2, 6, 7), 0, 0.9, None),
        ((3, 10, 5), 0, 0.6, 0.3),
        ((5, 2, 6), 1, 0.5, 0.9),
        ((1, 9, 9), 2, 0.75, 0.5),
    ],
)
def test_against_the_reference(
    shape: tuple[int, int, int],
    root_level: int,
    spatial: float,
    temporal: float | None,
    weigh_by_area: bool,
    as_released: bool,
) -> None:
    features = smooth(*shape)
    expected = sttm_reference(
        features.double().numpy(),
        spatial,
        temporal,
        root_level=root_level,
        by_area=weigh_by_area,
        released=as_released,
    )
    reduction = reduce_tokens(
        features,
        "sttm",
        spatial_threshold=spatial,
        temporal_threshold=temporal,
        root_level=root_level,
        weigh_by_area=weigh_by_area,
        as_released=as_released,
    )
    assert reduction.index.tolist() == sorted(expected)
    assert len(expected) < shape[0] * shape[1] * shape[2] or shape[1] == 2
    np.testing.assert_allclose(
        reduction.features, np.stack([expected[i] for i in sorted(expected)]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("side", "root_level", "sizes"),
    [
        (7, 1, [1, 2, 2, 2, 2, 4, 4, 4, 2, 4, 4, 4, 2, 4, 4, 4]),
        (14, 1, [4, 8, 8, 8, 8, 16, 16, 16, 8, 16, 16, 16, 8, 16, 16, 16]),
        (14, 0, [36, 48, 48, 64]),
    ],
)
def test_a_constant_frame_is_cut_into_the_cells_of_the_top_level(
    side: int, root_level: int, sizes: list[int]
) -> None:
    frame = torch.ones(1, side, side, 3)
    reduction = reduce_tokens(frame, "sttm", spatial_threshold=0.8, root_level=root_level)
    assert reduction.size.tolist() == sizes
    still = frame.expand(4, -1, -1, -1)
    joined = reduce_tokens(
        still, "sttm", spatial_threshold=0.8, temporal_threshold=0.5, root_level=root_level
    )
    assert joined.size.tolist() == [4 * size for size in sizes]
    assert joined.index.tolist() == reduction.index.tolist()


def test_one_cell_unlike_the_others_splits_only_what_it_lies_in() -> None:
    frame = torch.ones(1, 4, 4, 2)
    frame[0, 3, 2] = torch.tensor([-1.0, 1.0])
    reduction = reduce_tokens(frame, "sttm", spatial_threshold=0.8, root_level=0)
    assert reduction.size.tolist() == [4.0, 4.0, 4.0, 1.0, 1.0, 1.0, 1.0]


def test_released_cells_at_the_edge_are_compared_with_the_corner() -> None:
    frame = torch.ones(1, 7, 7, 2)
    frame[0, 0, 0] = torch.tensor([-1.0, 1.0])
    released = reduce_tokens(frame, "sttm", spatial_threshold=0.8)
    assert len(released) == 22
    assert len(reduce_tokens(frame, "sttm", spatial_threshold=0.8, as_released=False)) == 16


def test_released_corner_cells_of_a_single_part_are_one_token_whatever_they_hold() -> None:
    noise = torch.randn(2, 14, 14, 32, generator=torch.Generator().manual_seed(0))
    assert len(reduce_tokens(noise, "sttm", spatial_threshold=0.99)) == 386
    assert len(reduce_tokens(noise, "sttm", spatial_threshold=0.99, as_released=False)) == 392


def test_a_cell_alike_to_two_before_it_is_released_with_one_of_them() -> None:
    # frame 0 falls into single tokens, frame 1 into four cells, each alike to two of the four it contains
    left, right, both = [1.0, 0.0], [0.0, 1.0], [1.0, 0.2]
    frame = torch.tensor([[left, right], [left, right]])
    video = torch.stack([frame.repeat(2, 2, 1), torch.tensor(both).expand(4, 4, 2)])
    options: dict[str, Any] = {"spatial_threshold": 0.99, "temporal_threshold": 0.9, "root_level": 0}
    released, joined = (reduce_tokens(video, "sttm", as_released=flag, **options) for flag in (True, False))
    assert len(released) == 16
    assert len(joined) == 12
    assert joined.source[:2].tolist() == [0, 1]
    assert released.source[[0, 4]].tolist() == [0, 4]
    assert joined.source[[0, 4]].tolist() == [0, 0]


def test_frames_that_flip_their_sign_do_not_join() -> None:
    video = torch.ones(3, 8, 8, 4)
    video[1] *= -1
    assert len(reduce_tokens(video, "sttm", spatial_threshold=0.8, temporal_threshold=0.5)) == 48


def test_nothing_reaches_thresholds_above_one() -> None:
    video = torch.ones(3, 8, 8, 4)
    assert len(reduce_tokens(video, "sttm", spatial_threshold=1.5, temporal_threshold=1.5)) == 192
    assert len(reduce_tokens(video, "sttm", temporal_threshold=0.5)) == 64


@pytest.mark.parametrize("keep_ratio", [0.05, 0.2, 0.5, 0.9])
def test_a_budget_lowers_both_thresholds_until_it_is_met(keep_ratio: float) -> None:
    features, most = smooth(6, 8, 8), int(6 * 64 * keep_ratio)
    reduction = reduce_tokens(features, "sttm", keep_ratio=keep_ratio)
    assert max(16, 0.85 * most) <= len(reduction) <= most
    # no pair of thresholds with this gap comes nearer
    for spatial in np.linspace(0.31, 1.0, 12).tolist():
        thresholds: dict[str, Any] = {"spatial_threshold": spatial, "temporal_threshold": spatial - 0.3}
        kept = len(reduce_tokens(features, "sttm", **thresholds))
        assert not len(reduction) < kept <= most


def test_the_count_is_left_open() -> None:
    assert STTM(spatial_threshold=0.8).count(VideoGrid(3, 8, 8)) is None
    assert STTM(budget=Budget(keep_ratio=0.5)).count(VideoGrid(3, 8, 8)) is None
    assert STTM().count(VideoGrid(3, 8, 8)) == 192


def test_defaults() -> None:
    assert asdict(STTM()) == {
        "budget": asdict(Budget()),
        "spatial_threshold": None,
        "temporal_threshold": None,
        "threshold_gap": 0.3,
        "root_level": 1,
        "weigh_by_area": False,
        "as_released": True,
    }


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"spatial_threshold": 3}, ValueError),
        ({"temporal_threshold": -0.1}, ValueError),
        ({"temporal_threshold": "low"}, TypeError),
        ({"threshold_gap": 5}, ValueError),
        ({"root_level": -1}, ValueError),
        ({"weigh_by_area": 1}, TypeError),
        ({"as_released": 0}, TypeError),
        ({"budget": Budget(keep_tokens=9), "spatial_threshold": 0.8}, ValueError),
        ({"budget": Budget(keep_tokens=9), "temporal_threshold": 0.8}, ValueError),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(options)[-1]):
        STTM(**options)
