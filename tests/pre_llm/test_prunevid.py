"""PruneVid against a float64 reference, its budgets, and its segments by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import Budget
from streamprune.ops.segments import runs_of_equal, settle_labels
from streamprune.pre_llm.prunevid import PruneVid, static_places
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, *, scenes: int = 3, seed: int = 0) -> torch.Tensor:
    """Features whose later places change from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.arange(frames) * scenes // frames
    noise = torch.linspace(0.1, 1.2, rows * cols).reshape(rows, cols, 1)
    look = torch.randn(scenes, rows, cols, 10, generator=generator)[scene]
    return look + noise * torch.randn(frames, rows, cols, 10, generator=generator)


def clusters_of(x: Floats, count: int, neighbors: int) -> list[tuple[int, list[int]]]:
    """(centre, members) of density-peak clusters of the rows of ``x``, best centre first."""
    squares = ((x[:, None] - x[None]) ** 2).mean(-1)
    density = np.exp(-np.sort(squares, axis=1)[:, :neighbors].mean(1))
    score = []
    for i in range(len(x)):
        denser = squares[i][density > density[i]]
        score.append(math.sqrt(denser.min() if len(denser) else squares.max()) * density[i])
    centres = [int(i) for i in np.argsort(-np.array(score), kind="stable")[:count]]
    members: dict[int, list[int]] = {c: [c] for c in centres}
    for i in set(range(len(x))) - set(centres):
        members[min(centres, key=lambda c: float(squares[i, c]))].append(i)
    return [(c, members[c]) for c in centres]


def reference(
    x: Floats, *, beta: float, tau: float, gamma: float, neighbors: int, frame_neighbors: int, smallest: int
) -> dict[int, Floats]:
    """Kept token -> value, in emission order, for ``x`` (frames, tokens, channels)."""
    frames, tokens, _ = x.shape
    labels = np.empty(frames, dtype=int)
    found = clusters_of(x.mean(1), max(1, int(frames * gamma)), frame_neighbors)
    for number, (_, members) in enumerate(found):
        labels[members] = number
    kept: dict[int, Floats] = {}
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    for start, stop in runs_of_equal(settle_labels(labels.tolist())):
        length = stop - start
        cosine = np.einsum("and,bnd->nab", unit[start:stop], unit[start:stop])
        static = np.zeros(tokens, dtype=bool)
        if length > 1:
            off = cosine[:, ~np.eye(length, dtype=bool)]
            static = off.mean(1) > tau
        jobs = [(start, np.flatnonzero(static), x[start:stop, static].mean(0))]
        jobs += [(t, np.flatnonzero(~static), x[t, ~static]) for t in range(start, stop)]
        for t, place, values in jobs:
            if len(place) <= smallest:
                groups = [(i, [i]) for i in range(len(place))]
            else:
                groups = clusters_of(values, max(1, int(len(place) * beta)), neighbors)
            for centre, members in groups:
                kept[t * tokens + int(place[centre])] = values[members].mean(0)
    return kept


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((12, 6, 6), {"cluster_ratio": 0.5}),
        ((11, 5, 7), {"cluster_ratio": 0.11}),
        ((16, 6, 6), {"cluster_ratio": 0.3, "segment_ratio": 0.5, "neighbors": 3}),
        ((14, 5, 6), {"cluster_ratio": 0.4, "segment_ratio": 0.5, "frame_neighbors": 3}),
        ((9, 7, 7), {"cluster_ratio": 0.25, "similarity_threshold": 0.6, "smallest_group": 3}),
        ((3, 6, 6), {"cluster_ratio": 0.01, "smallest_group": 0}),
        ((1, 6, 6), {"cluster_ratio": 0.4}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_reference(shape: tuple[int, int, int], options: dict[str, Any], seed: int) -> None:
    features = made(*shape, seed=seed)
    reduction = reduce_tokens(features, "prunevid", **options)
    expected = reference(
        features.double().numpy().reshape(shape[0], -1, 10),
        beta=options["cluster_ratio"],
        tau=options.get("similarity_threshold", 0.8),
        gamma=options.get("segment_ratio", 0.25),
        neighbors=options.get("neighbors", 7),
        frame_neighbors=options.get("frame_neighbors", 7),
        smallest=options.get("smallest_group", 14),
    )
    assert reduction.index[reduction.order].tolist() == list(expected)
    np.testing.assert_allclose(
        reduction.features[reduction.order], np.stack(list(expected.values())), atol=1e-5
    )
    assert int(reduction.source.min()) >= 0, "every token is in some cluster"


@pytest.mark.parametrize("keep_ratio", [0.1, 0.25, 0.5, 0.8])
def test_a_budget_is_some_cluster_ratio(keep_ratio: float) -> None:
    features = made(12, 7, 7)
    by_budget = reduce_tokens(features, "prunevid", keep_ratio=keep_ratio, smallest_group=0)
    low, high = 0.0, 1.0
    for middle in (1.0, *([None] * 30)):
        ratio = (low + high) / 2 if middle is None else middle
        kept = len(reduce_tokens(features, "prunevid", cluster_ratio=ratio, smallest_group=0))
        low, high = (ratio, high) if kept <= 588 * keep_ratio else (low, ratio)
    largest = reduce_tokens(features, "prunevid", cluster_ratio=low, smallest_group=0)
    assert torch.equal(by_budget.index, largest.index)
    assert torch.equal(by_budget.features, largest.features)


def test_small_groups_stay_whole_while_the_budget_allows() -> None:
    grid = VideoGrid(2, 10, 10)
    counts = PruneVid(budget=Budget(keep_tokens=50)).cluster_counts([14, 100, 60, 3], grid)
    assert (counts[0], counts[3]) == (14, 3)
    assert counts[1:3] == [21, 12]
    counts = PruneVid(budget=Budget(keep_tokens=18)).cluster_counts([14, 100, 60, 3], grid)
    assert sum(counts) <= 18
    assert counts[0] < 14
    released = PruneVid(cluster_ratio=0.5).cluster_counts([14, 15, 60, 3], grid)
    assert released == [14, 7, 30, 3]


def test_identical_frames_are_static_everywhere() -> None:
    features = made(1, 7, 7).expand(10, -1, -1, -1)
    reduction = reduce_tokens(features, "prunevid", cluster_ratio=0.5)
    assert len(reduction) == 24
    assert int(reduction.index.max()) < 49
    assert torch.equal(reduction.size.sum(), torch.tensor(490.0))


def test_static_places_from_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(5, 1, 8, generator=generator) + 0.9 * torch.randn(5, 40, 8, generator=generator)
    frames[2, 3] = 0
    unit = torch.nn.functional.normalize(frames.double(), dim=-1)
    cosine = torch.einsum("and,bnd->abn", unit, unit)
    mean = (cosine.sum((0, 1)) - cosine.diagonal().sum(1)) / 20
    threshold = float(mean.median()) + 1e-4
    assert torch.equal(static_places(frames, threshold), mean > threshold)
    assert not static_places(frames[:1], -1.0).any()


def test_one_frame_is_announced() -> None:
    assert PruneVid(cluster_ratio=0.5).count(VideoGrid(1, 7, 7)) == 24
    assert PruneVid(budget=Budget(keep_ratio=0.3)).count(VideoGrid(1, 10, 10)) == 30
    assert PruneVid(cluster_ratio=0.5).count(VideoGrid(2, 7, 7)) is None
    assert PruneVid().count(VideoGrid(2, 7, 7)) == 98


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"cluster_ratio": 0.0}, ValueError),
        ({"cluster_ratio": 1.5}, ValueError),
        ({"segment_ratio": 0}, ValueError),
        ({"segment_ratio": None}, TypeError),
        ({"similarity_threshold": 2}, ValueError),
        ({"neighbors": 0}, ValueError),
        ({"frame_neighbors": 0}, ValueError),
        ({"smallest_group": -1}, ValueError),
        ({"budget": Budget(keep_ratio=0.5), "cluster_ratio": 0.5}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=list(options)[-1]):
        PruneVid(**options)
