"""MustDrop's first stage against a float64 reference, with a threshold as released and with a budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.mustdrop import MustDrop
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and early states of which blocks of two by two tokens are more or less alike."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, rows, cols, 5, generator=generator)
    look = torch.randn(frames, rows // 2 + 1, cols // 2 + 1, 8, generator=generator)
    look = look.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :rows, :cols]
    noise = torch.randn(frames, rows, cols, 8, generator=generator)
    return features, look + torch.rand(frames, rows, cols, 1, generator=generator) * noise


def run(features: torch.Tensor, early: torch.Tensor, **options: Any) -> Reduction:
    return reduce_tokens(features, "mustdrop", signals={"early_features": early}, **options)


def windows(rows: int, cols: int, side: int) -> list[list[tuple[int, int]]]:
    return [
        [(y, x) for y in range(top, min(top + side, rows)) for x in range(left, min(left + side, cols))]
        for top in range(0, rows, side)
        for left in range(0, cols, side)
    ]


def uniformity(early: Floats, window: list[tuple[int, int]]) -> float:
    unit = np.stack([early[place] / np.linalg.norm(early[place]) for place in window])
    return float(np.mean([unit[i] @ unit[j] for i in range(len(unit)) for j in range(len(unit)) if i != j]))


def reference(
    x: Floats, early: Floats, side: int, threshold: float | None, budget: int, shared: bool
) -> dict[int, Floats]:
    """Kept token -> value, in the order of emission."""
    frames, rows, cols, _ = x.shape
    layout = [window for window in windows(rows, cols, side) if len(window) > 1]
    scores = [[uniformity(early[frame], window) for window in layout] for frame in range(frames)]
    ranks = [sorted(range(len(layout)), key=lambda i: (-row[i], i)) for row in scores]
    kept = frames * rows * cols

    if threshold is not None:
        counts = [sum(score >= threshold for score in row) for row in scores]
        chosen = [ranks[frame][: min(counts) if shared else counts[frame]] for frame in range(frames)]
    elif shared:
        count = 0
        while kept > budget and count < len(layout):
            kept -= sum(len(layout[ranking[count]]) - 1 for ranking in ranks)
            count += 1
        chosen = [ranking[:count] for ranking in ranks]
    else:
        chosen = [[] for _ in range(frames)]
        for frame, window in sorted(np.ndindex(frames, len(layout)), key=lambda p: (-scores[p[0]][p[1]], p)):
            if kept > budget:
                kept -= len(layout[window]) - 1
                chosen[frame].append(window)

    out: dict[int, Floats] = {}
    for frame in range(frames):
        free = {(y, x) for y in range(rows) for x in range(cols)}
        for number in chosen[frame]:
            y, col = layout[number][-1]
            members = layout[number]
            out[(frame * rows + y) * cols + col] = np.mean([x[frame, p[0], p[1]] for p in members], 0)
            free -= set(members)
        for y, col in sorted(free):
            out[(frame * rows + y) * cols + col] = x[frame, y, col]
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.55},
        {"threshold": 0.3, "window": 2},
        {"threshold": 0.5, "shared_count": False},
        {"keep_ratio": 0.6},
        {"keep_ratio": 0.35, "shared_count": False},
        {"keep_ratio": 0.5, "window": 2},
        {"keep_ratio": 0.02},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(3, 6, 9), (4, 7, 8), (1, 10, 5)])
def test_agrees_with_the_reference(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    features, early = made(*shape)
    reduction = run(features, early, **options)
    expected = reference(
        features.double().numpy(),
        early.double().numpy(),
        options.get("window", 3),
        options.get("threshold"),
        Budget(keep_ratio=options.get("keep_ratio")).tokens(shape[0] * shape[1] * shape[2]),
        options.get("shared_count", True),
    )
    assert reduction.index.tolist() == sorted(expected)
    assert reduction.index[reduction.order].tolist() == list(expected)
    np.testing.assert_allclose(
        reduction.features[reduction.order], np.stack(list(expected.values())), atol=1e-5
    )


def test_a_constant_frame_merges_every_window_and_a_random_one_none() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 24, 24, 4, generator=generator)
    constant = torch.randn(16, generator=generator).expand(1, 24, 24, -1)
    merged = run(features, constant, threshold=0.8)
    assert len(merged) == 64
    assert torch.equal(merged.size, torch.full((64,), 9.0))
    random = torch.randn(1, 24, 24, 64, generator=generator)
    assert len(run(features, random, threshold=0.8)) == 576


def test_one_uneven_frame_holds_the_others_back_unless_each_decides_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 6, 6, 4, generator=generator)
    early = torch.ones(3, 6, 6, 32)
    early[1] = torch.randn(6, 6, 32, generator=generator)
    assert len(run(features, early, threshold=0.8)) == 108
    assert len(run(features, early, threshold=0.8, shared_count=False)) == 4 + 36 + 4


def test_the_budget_is_met_by_the_fewest_windows_and_stops_at_their_number() -> None:
    features, early = made(2, 9, 9)
    # 16 tokens less for every window that both frames merge
    assert [len(run(features, early, keep_tokens=n)) for n in (161, 146, 145, 18, 1)] == [
        146,
        146,
        130,
        18,
        18,
    ]
    assert len(run(features, early, keep_tokens=154, shared_count=False)) == 154


def test_without_threshold_or_budget_everything_stays() -> None:
    features, early = made(2, 6, 6)
    assert run(features, early).is_identity
    assert MustDrop(threshold=-1.0).count(run(features, early).grid) is None


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"threshold": 0.8, "budget": Budget(keep_ratio=0.5)},
            ValueError,
            "threshold=0.8 of mustdrop decides",
        ),
        (
            {"threshold": 0.8, "budget": Budget(keep_tokens=5)},
            ValueError,
            "threshold=0.8 of mustdrop decides",
        ),
        ({"threshold": 1.2}, ValueError, "threshold"),
        ({"threshold": "high"}, TypeError, "threshold"),
        ({"shared_count": 1}, TypeError, "shared_count"),
        ({"window": 1}, ValueError, "window"),
        ({"window": 3.0}, TypeError, "window"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        MustDrop(**options)
