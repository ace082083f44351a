"""StreamingTOM's temporal reduction against a float64 reference, and its budgets by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.streaming_tom import StreamingTOM, split_budget
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of which the first rows hold still and the last move, and made-up attention."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(1, rows, cols, 12, generator=generator)
    moving = torch.linspace(0.1, 1.5, rows)[:, None, None]
    features = base + moving * torch.randn(frames, rows, cols, 12, generator=generator)
    return features, torch.rand(frames, rows, cols, generator=generator)


def run(features: torch.Tensor, attention: torch.Tensor, **options: Any) -> Reduction:
    return reduce_tokens(features, "streaming_tom", signals={"received_attention": attention}, **options)


def reference(
    features: Floats, attention: Floats, keep: int, threshold: float, weight: float, k: int, away_from: str
) -> dict[int, Floats]:
    """Kept token -> value for (frames, tokens, channels), one frame and one token at a time."""
    frames, tokens, _ = features.shape
    kept: dict[int, Floats] = {}
    for t in range(frames):
        x = features[t]
        still = [n for n in range(tokens) if t and _cosine(x[n], features[t - 1, n]) > threshold]
        changed = [n for n in range(tokens) if n not in still]
        of_still = int(keep * len(still) / tokens)
        of_changed = keep - of_still
        if of_changed > len(changed):
            of_changed = len(changed)
            of_still = keep - of_changed
        for n in sorted(changed, key=lambda n: -attention[t, n])[:of_changed]:
            kept[t * tokens + n] = x[n]
        for n, value in _clusters(x, still, of_still, weight, k, away_from).items():
            kept[t * tokens + n] = value
    return kept


def _clusters(
    x: Floats, still: list[int], count: int, weight: float, k: int, away_from: str
) -> dict[int, Floats]:
    if count in (0, len(still)):
        return {n: x[n] for n in still[:count]}
    distance = {(a, b): float(np.linalg.norm(x[a] - x[b])) / x.shape[1] ** 0.5 for a in still for b in still}
    nearest = {a: sorted(distance[a, b] for b in still)[: min(k, len(still) - 1)] for a in still}
    density = {a: float(np.exp(-np.mean(np.square(nearest[a])))) for a in still}
    sign = 1 if away_from == "denser" else -1
    score = {}
    for a in still:
        others = [distance[a, b] for b in still if sign * density[b] > sign * density[a]]
        score[a] = density[a] * (min(others) if others else max(distance.values()))
    centres = sorted(sorted(still, key=lambda a: -score[a])[:count])
    members: dict[int, list[int]] = {centre: [] for centre in centres}
    for a in still:
        if a not in centres:
            members[min(centres, key=lambda centre: distance[a, centre])].append(a)
    return {
        centre: weight * x[centre] + (1 - weight) * x[group].mean(0) if group else x[centre]
        for centre, group in members.items()
    }


def _cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("shape", "keep", "options"),
    [
        ((5, 6, 6), 12, {}),
        ((4, 5, 7), 5, {"similarity_threshold": 0.6}),
        ((4, 6, 6), 20, {"away_from": "denser", "neighbors": 3}),
        ((4, 6, 6), 30, {"similarity_threshold": 0.3, "centre_weight": 0.1}),
        ((4, 6, 6), 9, {"similarity_threshold": -1.0, "neighbors": 50}),
        ((3, 6, 6), 6, {"similarity_threshold": 1.0}),
    ],
)
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], keep: int, options: dict[str, Any], seed: int
) -> None:
    features, attention = made(*shape, seed=seed)
    reduction = run(features, attention, keep_tokens=keep * shape[0], **options)
    expected = reference(
        features.flatten(1, 2).double().numpy(),
        attention.flatten(1).double().numpy(),
        keep,
        options.get("similarity_threshold", 0.9),
        options.get("centre_weight", 0.6),
        options.get("neighbors", 7),
        options.get("away_from", "sparser"),
    )
    assert reduction.index.tolist() == sorted(expected)
    np.testing.assert_allclose(
        reduction.features, np.stack([expected[token] for token in sorted(expected)]), atol=1e-5
    )


@pytest.mark.parametrize(
    ("keep", "same", "changed", "split"),
    [
        (50, 0, 196, (0, 50)),
        (50, 196, 0, (50, 0)),
        (50, 98, 98, (25, 25)),
        (50, 195, 1, (49, 1)),
        (3, 2, 2, (1, 2)),
        (49, 4, 192, (1, 48)),
    ],
)
def test_a_frames_budget_is_split_by_how_many_there_are(
    keep: int, same: int, changed: int, split: tuple[int, int]
) -> None:
    assert split_budget(keep, same, changed) == split


def test_the_second_of_two_identical_frames_is_all_clusters() -> None:
    features, attention = made(1, 6, 6)
    reduction = run(features.expand(2, -1, -1, -1), attention.expand(2, -1, -1), keep_tokens=20)
    first = attention.flatten().topk(10).indices.sort().values
    assert torch.equal(reduction.index[:10], first)
    weights = reduction.weights.to_dense()[10:, 36:]
    assert (weights > 0).any(0).all(), "every token of the second frame is in some cluster"
    blended = (weights > 0).sum(1) > 1
    torch.testing.assert_close(weights.max(1).values[blended], torch.full((int(blended.sum()),), 0.6))


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.9])
def test_every_frame_keeps_the_same(ratio: float) -> None:
    features, attention = made(5, 6, 6)
    each = max(1, int(36 * ratio))
    assert StreamingTOM(budget=Budget(keep_ratio=ratio)).count(VideoGrid(5, 6, 6)) == 5 * each
    kept = run(features, attention, keep_ratio=ratio).index // 36
    assert torch.bincount(kept).tolist() == [each] * 5


def test_at_full_centre_weight_nothing_is_merged() -> None:
    features, attention = made(4, 6, 6)
    reduction = run(features, attention, keep_ratio=0.3, centre_weight=1.0)
    assert torch.equal(reduction.features, features.flatten(0, 2)[reduction.index])
    assert int((reduction.source >= 0).sum()) == len(reduction)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"similarity_threshold": 2}, ValueError),
        ({"centre_weight": -0.1}, ValueError),
        ({"neighbors": 0}, ValueError),
        ({"neighbors": 2.5}, TypeError),
        ({"away_from": "dense"}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        StreamingTOM(**options)
