"""The segments of FastVID, HoliTom and PruneVid on their own: the same as inside those methods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from streamprune.errors import UsageError
from streamprune.frames.content import unit_rows
from streamprune.frames.fastvid import FastVIDFrames
from streamprune.frames.holitom import HoliTomFrames
from streamprune.frames.prunevid import PruneVidFrames
from streamprune.pre_llm.prunevid import PruneVid
from tests.frames.random_previews import previews, random_fields

Values = NDArray[np.float64]
Segments = list[tuple[int, int]]


def turned(*cosines: float) -> Values:
    """Vectors in the plane, each at this cosine to the one before."""
    angles = np.concatenate([[0.0], np.cumsum(np.arccos(cosines))])
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def cuts(segments: Segments) -> list[int]:
    """Where segments begin, after checking that they cover everything in order."""
    starts, stops = zip(*segments, strict=True)
    assert starts[0] == 0
    assert starts[1:] == stops[:-1]
    return list(starts[1:])


def test_fastvid_cuts_the_weakest_and_all_below_the_threshold() -> None:
    features = turned(0.99, 0.5, 0.98, 0.97, 0.6, 0.99)
    assert cuts(FastVIDFrames(num_segments=1).segments(features)) == [2, 5]
    assert cuts(FastVIDFrames(num_segments=4).segments(features)) == [2, 4, 5]
    assert cuts(FastVIDFrames(num_segments=2, similarity_threshold=-1).segments(features)) == [2]


def test_fastvid_cuts_what_numpy_cuts() -> None:
    for seed in range(10):
        features = random_fields(seed, 20)["frame_features"]
        unit = unit_rows(features)
        cosine = (unit[1:] * unit[:-1]).sum(1)
        expected = set(np.argsort(cosine)[:7].tolist()) | set(np.flatnonzero(cosine < 0.9).tolist())
        assert cuts(FastVIDFrames().segments(features)) == [step + 1 for step in sorted(expected)]


def test_fastvid_on_clips_that_have_no_cuts_or_only_cuts() -> None:
    assert len(FastVIDFrames().segments(np.ones((30, 4)))) == 8
    assert len(FastVIDFrames().segments(np.ones((5, 4)))) == 5
    assert FastVIDFrames().segments(np.ones((1, 4))) == [(0, 1)]
    assert len(FastVIDFrames().segments(np.eye(12))) == 12


def places(rows: list[str]) -> Values:
    """(frames, places, 2) tokens that are alike ("1") or not ("0") from each frame to the next."""
    tokens = np.zeros((len(rows) + 1, len(rows[0]), 2))
    for place in range(len(rows[0])):
        tokens[:, place] = turned(*[1.0 if row[place] == "1" else 0.0 for row in rows])
    return tokens


@pytest.mark.parametrize(
    ("alike", "expected"),
    [
        (["111", "110", "000", "111", "111"], [(0, 3), (3, 6)]),
        (["1111", "1100", "1111"], [(0, 2), (2, 4)]),
        (["00", "00"], [(0, 1), (1, 2), (2, 3)]),
        (["11", "11", "11"], [(0, 4)]),
    ],
)
def test_holitom_saves_most(alike: list[str], expected: Segments) -> None:
    assert HoliTomFrames().segments(places(alike)) == expected


def test_holitom_is_the_best_of_all_cuttings() -> None:
    method = HoliTomFrames(similarity_threshold=0.9)
    for seed in range(6):
        tokens = random_fields(seed, 8)["token_features"]
        unit = unit_rows(tokens)
        alike = (unit[1:] * unit[:-1]).sum(-1) > 0.9

        def saved(segments: Segments, alike: NDArray[np.bool_] = alike) -> int:
            return sum((b - a - 1) * int(alike[a : b - 1].all(0).sum()) for a, b in segments if b - a > 1)

        every = [
            list(zip([0, *inner], [*inner, 8], strict=True))
            for bits in range(2**7)
            for inner in [[place + 1 for place in range(7) if bits >> place & 1]]
        ]
        found = method.segments(tokens)
        cuts(found)
        assert saved(found) == max(map(saved, every))


def test_holitom_keeps_segments_short_when_asked() -> None:
    tokens = np.ones((10, 3, 4))
    assert HoliTomFrames().segments(tokens) == [(0, 10)]
    lengths = [stop - start for start, stop in HoliTomFrames(longest_segment=4).segments(tokens)]
    assert max(lengths) <= 4
    assert sum(lengths) == 10
    assert HoliTomFrames().segments(np.ones((1, 3, 4))) == [(0, 1)]


def test_prunevid_cuts_as_inside_the_method() -> None:
    for seed in range(8):
        features = random_fields(seed, 24)["mean_features"]
        choices: list[dict[str, Any]] = [{}, {"segment_ratio": 0.5, "frame_neighbors": 3}]
        for options in choices:
            inside = PruneVid(**options).segments(torch.as_tensor(features).float())
            assert PruneVidFrames(**options).segments(features) == inside


def test_prunevid_finds_groups_that_stand_apart() -> None:
    rng = np.random.default_rng(1)
    groups = 10 * np.eye(3)[np.repeat([0, 1, 2], [5, 4, 6])] + 0.01 * rng.normal(size=(15, 3))
    method = PruneVidFrames(segment_ratio=0.2, frame_neighbors=4)
    assert method.segments(groups) == [(0, 5), (5, 9), (9, 15)]


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_prunevid_with_fewer_candidates_than_neighbors(frames: int) -> None:
    assert cuts(PruneVidFrames().segments(np.random.default_rng(0).normal(size=(frames, 4)))) == []


def test_every_segment_is_looked_into() -> None:
    features = turned(*[1.0] * 5, 0.0, 1.0)
    candidates = previews(frame_features=features)
    method = FastVIDFrames(num_segments=1, num_frames=2)
    assert method.segments(features) == [(0, 6), (6, 8)]
    assert method.choose(candidates) == [3, 7]


@pytest.mark.parametrize(
    ("make", "option", "value"),
    [
        (FastVIDFrames, "num_segments", 0),
        (FastVIDFrames, "similarity_threshold", 2),
        (HoliTomFrames, "similarity_threshold", "0.8"),
        (HoliTomFrames, "longest_segment", 0),
        (PruneVidFrames, "segment_ratio", 0),
        (PruneVidFrames, "segment_ratio", 1.5),
        (PruneVidFrames, "frame_neighbors", 0),
    ],
)
def test_options_have_ranges(make: Any, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        make(**{option: value})
