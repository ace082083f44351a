"""The differential token drop by hand: thresholds, shares, budgets, and what is compared with what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.timechat_online import TimeChatOnline
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid


def draw(frames: int, rows: int = 4, cols: int = 5, channels: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(1, rows, cols, channels, generator=generator)
    return base + torch.randn(frames, rows, cols, channels, generator=generator)


def run(features: torch.Tensor, **options: Any) -> Reduction:
    return reduce_tokens(features, "timechat_online", **options)


def test_two_tokens_of_which_one_repeats() -> None:
    features = torch.tensor([[[[1.0, 0], [0, 1]]], [[[1.0, 0], [1, 0]]]])
    assert run(features, threshold=0.5).index.tolist() == [0, 1, 3]


def test_of_a_still_video_only_the_first_frame_survives() -> None:
    still = draw(1).expand(6, -1, -1, -1)
    assert run(still, threshold=0.9999).index.tolist() == list(range(20))
    for share in (0.0, 0.29, 0.7, 1.0):
        later = 20 - int(20 * share)
        kept = run(still, drop_share=share).index
        assert kept.tolist() == list(range(20)) + [t * 20 + n for t in range(1, 6) for n in range(later)]


def test_independent_frames_lose_nothing_at_a_high_threshold() -> None:
    features = torch.randn(6, 4, 5, 16, generator=torch.Generator().manual_seed(0))
    assert run(features, threshold=0.99).is_identity


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5},
        {"drop_share": 0.6},
        {"threshold": 0.5, "reference": "last_kept"},
        {"drop_share": 0.6, "reference": "last_kept"},
        {"rank": "frame", "keep_ratio": 0.4},
    ],
    ids=str,
)
def test_forms_that_need_no_later_frame(options: dict[str, Any]) -> None:
    built = {name: value for name, value in options.items() if name != "keep_ratio"}
    assert TimeChatOnline(budget=Budget(options.get("keep_ratio")), **built).causal
    features = draw(9)
    whole = run(features, **options).index
    assert 0.2 * 180 < len(whole) < 0.8 * 180
    for frames in (1, 2, 5, 8):
        assert torch.equal(run(features[:frames], **options).index, whole[whole < frames * 20])


def test_chunks_that_overlap_by_a_frame_decide_as_the_whole_clip() -> None:
    features = draw(9)
    whole = run(features, threshold=0.5).index
    second = run(features[4:], threshold=0.5).index + 80
    assert torch.equal(second[second >= 100], whole[whole >= 100])


def test_a_budget_over_the_clip_is_the_threshold_that_meets_it() -> None:
    features = draw(9)
    by_threshold = run(features, threshold=0.5)
    assert not TimeChatOnline(budget=Budget(0.4)).causal
    assert torch.equal(run(features, keep_tokens=len(by_threshold)).index, by_threshold.index)


def test_a_budget_by_frame_waits_until_the_first_frame_is_paid_for() -> None:
    for budget in ({"keep_ratio": 0.3}, {"keep_tokens": 60}):
        kept = run(draw(10), rank="frame", **budget).index // 20
        assert torch.bincount(kept).tolist() == [20, 0, 0, 4, 6, 6, 6, 6, 6, 6]
    assert not TimeChatOnline(rank="frame", budget=Budget(keep_tokens=60)).causal


def test_slow_drift_is_noticed_against_the_last_kept_token() -> None:
    angle = torch.arange(40) * math.radians(3)
    drifting = torch.stack([angle.cos(), angle.sin()], -1)
    still = torch.ones(40, 2)
    features = torch.stack([drifting, still], 1)[:, None]
    threshold = math.cos(math.radians(28))
    assert run(features, threshold=threshold).index.tolist() == [0, 1]
    followed = run(features, threshold=threshold, reference="last_kept")
    # the tenth frame after the last kept one is 30 degrees away
    assert followed.index.tolist() == [0, 1, 20, 40, 60]


def test_pixels_in_place_of_features() -> None:
    change = torch.zeros(3, 2, 2)
    change[0], change[1, 0, 1], change[2, 1, 0] = 0.9, 0.1, 0.3
    signals = {"pixel_change": change}
    features = torch.ones(3, 2, 2, 4)
    assert TimeChatOnline(compare="pixels").needs == ("pixel_change",)
    for options, later in (
        ({"threshold": 0.05}, [5, 10]),
        ({"threshold": 0.1}, [5, 10]),
        ({"threshold": 0.2}, [10]),
        ({"keep_tokens": 5}, [10]),
        ({"drop_share": 0.5}, [4, 5, 8, 10]),
    ):
        reduction = run(features, compare="pixels", signals=signals, **options)
        assert reduction.index[4:].tolist() == later
    with pytest.raises(ValueError, match="signal 'pixel_change'"):
        run(features, compare="pixels", threshold=0.1)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"threshold": 0.5}, None),
        ({"drop_share": 0.29}, 20 + 8 * 15),
        ({"budget": Budget(keep_tokens=33)}, 33),
        ({"budget": Budget(keep_tokens=3), "rank": "frame"}, 20),
        ({}, 180),
    ],
    ids=str,
)
def test_the_count_is_known_but_for_a_threshold(options: dict[str, Any], count: int | None) -> None:
    assert TimeChatOnline(**options).count(VideoGrid(9, 4, 5)) == count


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"threshold": 0.5, "keep_ratio": 0.5}, ValueError, "got threshold and a budget"),
        ({"threshold": 0.5, "drop_share": 0.5}, ValueError, "got threshold and drop_share"),
        ({"drop_share": 0.5, "keep_tokens": 5}, ValueError, "got drop_share and a budget"),
        ({"reference": "last_kept", "keep_ratio": 0.5}, ValueError, "rank='frame'"),
        ({"reference": "last_kept", "compare": "pixels", "threshold": 0.1}, ValueError, "compare='features'"),
        ({"threshold": 1.5}, ValueError, "threshold must be in"),
        ({"threshold": -0.5, "compare": "pixels"}, ValueError, "threshold must be in"),
        ({"drop_share": "half"}, TypeError, "drop_share must be a number"),
        ({"compare": "feature"}, ValueError, "compare of timechat_online"),
        ({"reference": "first"}, ValueError, "reference of timechat_online"),
        ({"rank": "video"}, ValueError, "rank of timechat_online"),
    ],
    ids=str,
)
def test_options_that_cannot_be_meant_are_refused(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(draw(3), **options)
