"""HoliTom against a float64 reference, and its arithmetic by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.ops.segments import static_windows
from streamprune.pre_llm.holitom import HoliTom, blend_clusters
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid

Floats = npt.NDArray[np.float64]


def made(
    frames: int, rows: int, cols: int, *, channels: int = 10, scenes: int = 2, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features whose later places change from frame to frame, and attention."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(frames) * scenes // frames
    noise = torch.linspace(0.1, 1.2, rows * cols).reshape(rows, cols, 1)
    features = torch.randn(scenes, rows, cols, channels, generator=generator)[scene]
    features = features + noise * torch.randn(frames, rows, cols, channels, generator=generator)
    return features, torch.rand(frames, rows, cols, generator=generator)


def run(features: torch.Tensor, attention: torch.Tensor, **options: Any) -> Reduction:
    return reduce_tokens(features, "holitom", signals={"received_attention": attention}, **options)


def centres_of(x: Floats, count: int, neighbors: int) -> list[int]:
    """Density-peak centres of the rows of ``x``, in ascending order."""
    squares = ((x[:, None] - x[None]) ** 2).mean(-1)
    k = min(neighbors, count)
    density = np.exp(-np.sort(squares, axis=1)[:, :k].mean(1))
    score = []
    for i in range(len(x)):
        denser = squares[i][density > density[i]]
        score.append(math.sqrt(denser.min() if len(denser) else squares.max()) * density[i])
    return sorted(int(i) for i in np.argsort(-np.array(score), kind="stable")[:count])


def blended(x: Floats, count: int, neighbors: int, beta: float | None) -> dict[int, Floats]:
    """Centre -> its value, for the rows of ``x``."""
    if count == 0:
        return {}
    centres = centres_of(x, count, neighbors)
    members: dict[int, list[Floats]] = {c: [] for c in centres}
    for i in set(range(len(x))) - set(centres):
        members[min(centres, key=lambda c: float(((x[i] - x[c]) ** 2).sum()))].append(x[i])
    values = {}
    for c, joined in members.items():
        if not joined:
            values[c] = x[c]
        elif beta is None:
            values[c] = np.mean([x[c], *joined], axis=0)
        else:
            values[c] = beta * x[c] + (1 - beta) * np.mean(joined, axis=0)
    return values


def reference(
    x: Floats,
    attention: Floats,
    keep: float,
    *,
    tau: float,
    beta: float | None,
    neighbors: int,
    longest: int,
    context: float,
) -> dict[int, Floats]:
    """Kept token -> value, in emission order, for ``x`` (frames, tokens, channels)."""
    frames, tokens, _ = x.shape
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    alike = (unit[1:] * unit[:-1]).sum(-1) > tau
    segments, saved = static_windows(torch.from_numpy(alike), longest=longest)
    share = min(keep / ((frames * tokens - saved) / (frames * tokens)), 1)
    kept: dict[int, Floats] = {}
    for start, stop in segments:
        still = alike[start : stop - 1].all(0) if stop - start > 1 else np.zeros(tokens, dtype=bool)
        static, moving = np.flatnonzero(still), np.flatnonzero(~still)
        if len(static):
            means = x[start:stop, static].mean(0)
            for i, value in blended(means, round(len(static) * share), neighbors, beta).items():
                kept[start * tokens + int(static[i])] = value
        for t in range(start, stop):
            count = math.ceil(len(moving) * share)
            salient = round(count * (1 - context))
            ranking = moving[np.argsort(-attention[t, moving], kind="stable")]
            for i in np.sort(ranking[:salient]):
                kept[t * tokens + int(i)] = x[t, i]
            rest = np.sort(ranking[salient:])
            for i, value in blended(x[t, rest], count - salient, neighbors, beta).items():
                kept[t * tokens + int(rest[i])] = value
    return kept


@pytest.mark.parametrize(
    ("shape", "keep_ratio", "options"),
    [
        ((9, 6, 6), 0.25, {}),
        ((12, 5, 7), 0.1, {"similarity_threshold": 0.65}),
        ((7, 6, 6), 0.5, {"center_weight": 0.2, "neighbors": 3}),
        ((10, 6, 5), 0.3, {"center_weight": None, "longest_segment": 3}),
        ((8, 6, 6), 0.3, {"context_ratio": 0.5}),
        ((6, 7, 7), 0.4, {"context_ratio": 1.0, "center_weight": 0.0}),
        ((1, 6, 6), 0.2, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], keep_ratio: float, options: dict[str, Any], seed: int
) -> None:
    features, attention = made(*shape, seed=seed)
    reduction = run(features, attention, keep_ratio=keep_ratio, **options)
    expected = reference(
        features.double().numpy().reshape(shape[0], -1, 10),
        attention.double().numpy().reshape(shape[0], -1),
        keep_ratio,
        tau=options.get("similarity_threshold", 0.8),
        beta=options.get("center_weight", 0.6),
        neighbors=options.get("neighbors", 7),
        longest=options.get("longest_segment", 1024),
        context=options.get("context_ratio", 0.0),
    )
    assert reduction.index[reduction.order].tolist() == list(expected)
    np.testing.assert_allclose(
        reduction.features[reduction.order], np.stack(list(expected.values())), atol=1e-5
    )


def test_nothing_alike_keeps_the_most_attended_of_each_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 14, 14, 64, generator=generator)
    attention = torch.rand(5, 14, 14, generator=generator)
    reduction = run(features, attention, keep_ratio=0.15)
    best = attention.flatten(1).topk(30).indices + 196 * torch.arange(5)[:, None]
    assert torch.equal(reduction.index, best.flatten().sort().values)
    assert torch.equal(reduction.features, features.reshape(-1, 64)[reduction.index])


@pytest.mark.parametrize(("keep_ratio", "kept"), [(0.02, 8), (0.1, 39), (0.15, 59), (0.25, 98)])
def test_a_still_clip_is_one_segment_of_averages(keep_ratio: float, kept: int) -> None:
    features, attention = made(1, 7, 14)
    still = features.expand(4, -1, -1, -1)
    reduction = run(still, attention.expand(4, -1, -1), keep_ratio=keep_ratio)
    assert len(reduction) == kept == round(98 * min(1, 4 * keep_ratio))
    assert int(reduction.index.max()) < 98
    if kept == 98:
        torch.testing.assert_close(reduction.features, features.reshape(98, -1))


def test_a_still_clip_keeps_a_token_where_the_share_rounds_to_none() -> None:
    features, attention = made(1, 2, 2)
    still = features.expand(2, -1, -1, -1)
    assert len(run(still, attention.expand(2, -1, -1), keep_ratio=0.05)) == 1


def test_two_crowds_on_a_line() -> None:
    line = torch.tensor([0.0, 1, 3, 10, 11, 12])
    centres, joined = torch.tensor([[1, 4]]), torch.tensor([[0, 0, 0, 1, 1, 1]])
    target, point, weight = blend_clusters(centres, joined, 0.6)
    values = torch.zeros(6).index_add(0, target, weight * line[point])
    torch.testing.assert_close(values, torch.tensor([0, 1.2, 0, 0, 11, 0]))
    target, point, weight = blend_clusters(centres, joined, None)
    values = torch.zeros(6).index_add(0, target, weight * line[point])
    torch.testing.assert_close(values, torch.tensor([0, 4 / 3, 0, 0, 11, 0]))


def test_a_centre_alone_is_unchanged() -> None:
    target, point, weight = blend_clusters(torch.tensor([[0, 1]]), torch.tensor([[0, 1, 1]]), 0.25)
    assert target.tolist() == [0, 1, 1]
    assert point.tolist() == [0, 1, 2]
    assert weight.tolist() == [1, 0.25, 0.75]


def test_a_count_of_tokens_is_a_share() -> None:
    features, attention = made(8, 6, 6)
    by_ratio, by_count = (run(features, attention, **b) for b in ({"keep_ratio": 0.25}, {"keep_tokens": 72}))
    assert torch.equal(by_ratio.index, by_count.index)
    assert HoliTom(budget=Budget(keep_ratio=0.1)).count(VideoGrid(1, 14, 14)) == 20
    assert HoliTom(budget=Budget(keep_ratio=0.1)).count(VideoGrid(2, 14, 14)) is None


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"similarity_threshold": 1.5}, ValueError),
        ({"similarity_threshold": None}, TypeError),
        ({"center_weight": -0.1}, ValueError),
        ({"center_weight": "half"}, TypeError),
        ({"neighbors": 0}, ValueError),
        ({"longest_segment": 0}, ValueError),
        ({"longest_segment": 2.0}, TypeError),
        ({"context_ratio": 1.1}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        HoliTom(**options)
