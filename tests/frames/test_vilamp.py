"""Differential keyframes: the greedy rule and the filling of gaps, against the rule written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streamprune.errors import UsageError
from streamprune.frames.base import spread
from streamprune.frames.vilamp import ViLaMPFrames, fill_gaps
from tests.frames.random_previews import previews, random_fields

Values = NDArray[np.float64]


def choose(features: Values, relevance: Values, **options: Any) -> list[int]:
    candidates = previews(frame_features=features, relevance=relevance)
    return ViLaMPFrames(**options).choose(candidates)


def greedy(features: Values, relevance: Values, threshold: float, num_frames: int) -> list[int]:
    """The rule one pair at a time."""
    taken: list[int] = []
    for frame in sorted(range(len(relevance)), key=lambda frame: (-relevance[frame], frame)):
        lengths = [np.linalg.norm(features[frame]) * np.linalg.norm(features[other]) for other in taken]
        cosines = [
            features[frame] @ features[other] / length for other, length in zip(taken, lengths, strict=True)
        ]
        if len(taken) < num_frames and all(cosine <= threshold for cosine in cosines):
            taken.append(frame)
    return sorted(taken)


def filled(taken: list[int], total: int, wanted: int) -> list[int]:
    """The filling one position at a time: a mark every so many free positions of a gap, then from the end."""
    shown = [frame in taken for frame in range(total)]
    gaps: list[list[int]] = [[]]
    for frame in range(total):
        if shown[frame]:
            gaps.append([])
        else:
            gaps[-1].append(frame)
    gaps = [gap for gap in gaps if gap]
    missing = wanted - len(taken)

    def inner(gap: list[int], step: int) -> int:
        return -(-len(gap) // step) - 1

    step = 1
    while sum(inner(gap, step) for gap in gaps) > missing:
        step += 1
    for gap in gaps:
        marks = inner(gap, step)
        stride = -(-len(gap) // (marks + 1))
        for mark in range(marks):
            shown[gap[stride * (mark + 1)]] = True
    for frame in reversed(range(total)):
        if sum(shown) < wanted and not shown[frame]:
            shown[frame] = True
    return [frame for frame in range(total) if shown[frame]]


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.3, 0.85])
def test_greedy_rule(threshold: float) -> None:
    for seed in range(8):
        fields = random_fields(seed, 25)
        features, relevance = fields["frame_features"], fields["relevance"]
        chosen = choose(features, relevance, similarity_threshold=threshold, num_frames=9, fill=False)
        assert chosen == greedy(features, relevance, threshold, 9)


def test_all_slots_are_filled() -> None:
    for seed in range(6):
        fields = random_fields(seed, 30)
        features, relevance = fields["frame_features"], fields["relevance"]
        for num_frames in (1, 7, 29, 30, 64):
            chosen = choose(features, relevance, num_frames=num_frames)
            assert len(chosen) == min(num_frames, 30)
            assert set(greedy(features, relevance, 0.85, num_frames)) <= set(chosen)


def test_threshold_of_one_is_plain_relevance() -> None:
    rng = np.random.default_rng(0)
    relevance = rng.random(20)
    top = sorted(np.argsort(-relevance)[:6].tolist())
    # copies too: rounding must not lift their cosine above 1
    for features in (rng.normal(size=(20, 3)), np.tile(rng.normal(size=7), (20, 1))):
        assert choose(features, relevance, similarity_threshold=1, num_frames=6) == top


def test_equal_candidates_give_one_keyframe_and_the_rest_evenly() -> None:
    features, relevance = np.ones((16, 4)), np.linspace(1, 0, 16)
    assert choose(features, relevance, num_frames=8, fill=False) == [0]
    assert choose(features, relevance, num_frames=8) == [0, 3, 5, 7, 9, 11, 13, 15]


def test_zero_features_are_like_nothing() -> None:
    relevance = np.array([0.1, 0.9, 0.5, 0.7])
    assert choose(np.zeros((4, 3)), relevance, num_frames=2, fill=False) == [1, 3]


def test_what_is_not_relevant_is_not_taken_for_it() -> None:
    features, relevance = np.eye(5), np.array([0.5, 0.1, 0.4, 0.0, -0.3])
    assert choose(features, relevance, relevance_threshold=0.4, fill=False) == [0, 2]
    assert choose(features, relevance, relevance_threshold=-0.1, fill=False) == [0, 1, 2, 3]
    assert choose(features, relevance, fill=False) == [0, 1, 2, 3, 4]
    assert choose(features, relevance, relevance_threshold=0.9, num_frames=2, fill=False) == spread(5, 2)
    assert len(choose(features, relevance, relevance_threshold=0.9, num_frames=2)) == 2


@pytest.mark.parametrize(
    ("taken", "total", "wanted", "expected"),
    [
        ([0], 16, 8, [0, 3, 5, 7, 9, 11, 13, 15]),
        ([5], 11, 3, [3, 5, 9]),
        ([], 8, 2, [3, 6]),
        ([2, 3], 4, 4, [0, 1, 2, 3]),
        ([4], 5, 1, [4]),
        ([0, 9], 10, 3, [0, 5, 9]),
        ([], 3, 9, [0, 1, 2]),
    ],
)
def test_gaps(taken: list[int], total: int, wanted: int, expected: list[int]) -> None:
    assert fill_gaps(taken, total, wanted) == expected


def test_gaps_are_filled_as_the_rule_says() -> None:
    rng = np.random.default_rng(3)
    for _ in range(150):
        total = int(rng.integers(1, 60))
        wanted = int(rng.integers(1, total + 1))
        taken = sorted(rng.permutation(total)[: int(rng.integers(0, wanted + 1))].tolist())
        found = fill_gaps(taken, total, wanted)
        assert found == filled(taken, total, wanted)
        assert len(found) == wanted
        assert set(taken) <= set(found)


def test_the_released_settings_are_the_defaults() -> None:
    method = ViLaMPFrames()
    assert (method.num_frames, method.max_previews, method.similarity_threshold) == (32, 600, 0.85)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("similarity_threshold", 1.1),
        ("similarity_threshold", float("nan")),
        ("relevance_threshold", "high"),
        ("fill", 1),
    ],
)
def test_options_have_ranges(option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=option):
        ViLaMPFrames(**{option: value})
