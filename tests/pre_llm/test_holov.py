"""HoloV against a float64 reference, chunk by chunk, and quotas done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.pre_llm.holov import HoloV
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction


def made(
    frames: int, rows: int, cols: int, *, channels: int = 6, seed: int = 0, sharpness: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and attention that sums to 1 in every frame."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, rows, cols, channels, generator=generator)
    logits = sharpness * torch.randn(frames, rows * cols, generator=generator)
    return features, torch.softmax(logits, 1).reshape(frames, rows, cols)


def run(features: torch.Tensor, attention: torch.Tensor, **options: Any) -> Reduction:
    return reduce_tokens(features, "holov", signals={"saliency": attention}, **options)


def emitted(reduction: Reduction) -> list[list[int]]:
    """Places in its frame of each row, in the order of the release; -1 = a zero row."""
    index = reduction.index[reduction.order].reshape(reduction.grid.frames, -1)
    return torch.where(index < 0, -1, index % reduction.grid.tokens_per_frame).tolist()


def reference(
    x: np.ndarray[Any, Any],
    attention: np.ndarray[Any, Any],
    chunks: int,
    keep: int,
    *,
    weight: float,
    paper: bool,
    power: float,
) -> list[int]:
    """What one frame emits; with ``paper`` in any order of the chunks' tokens, sorted."""
    places = np.array_split(np.arange(len(x)), chunks)
    score = np.zeros(len(x))
    for place in places:
        score[place] = attention[place] * (1000 if paper or len(place) > 1 else 1)
        if len(place) > 1:
            unit = x[place] / np.linalg.norm(x[place], axis=1, keepdims=True)
            cosine = unit @ unit.T * (1 - np.eye(len(place)))
            mean = cosine.sum(1, keepdims=True) / (len(place) - 1)
            variance = ((cosine - mean) ** 2).sum(1) / (len(place) - 1)
            score[place] += weight * variance * score[place].mean() / variance.mean()
    share = np.array([score[place].mean() for place in places]) ** power
    share = share / share.sum()
    quota = np.floor(share * keep).astype(int)
    by_share = np.argsort(-share, kind="stable")
    for chunk in by_share[: keep - quota.sum()]:
        quota[chunk] += 1
    if paper:
        lengths = [len(place) for place in places]
        quota = np.minimum(quota, lengths)
        while quota.sum() < keep:
            for chunk in by_share:
                if quota[chunk] < lengths[chunk] and quota.sum() < keep:
                    quota[chunk] += 1
    kept: list[int] = []
    for place, n in zip(places, quota, strict=True):
        best = place[np.argsort(-(score if paper else attention)[place], kind="stable")][:n]
        kept += (place if n >= len(place) else best).tolist()
    return kept + [-1] * (keep - len(kept))


@pytest.mark.parametrize("as_released", [True, False])
@pytest.mark.parametrize(
    ("shape", "keep", "options"),
    [
        ((3, 6, 6), 12, {"num_chunks": 4}),
        ((2, 5, 7), 9, {"num_chunks": 6}),
        ((2, 5, 5), 11, {"num_chunks": 16}),
        ((2, 6, 6), 20, {"num_chunks": 8, "variance_weight": 0.5, "power": 2.0}),
        ((2, 4, 4), 8, {"num_chunks": 100}),
        ((2, 6, 6), 20, {"num_chunks": 1, "power": 0.0}),
    ],
)
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_agrees_with_the_reference(
    as_released: bool, shape: tuple[int, int, int], keep: int, options: dict[str, Any], sharpness: float
) -> None:
    features, attention = made(*shape, seed=keep, sharpness=sharpness)
    reduction = run(features, attention, keep_tokens=keep * shape[0], as_released=as_released, **options)
    tokens = shape[1] * shape[2]
    for frame, actual in enumerate(emitted(reduction)):
        expected = reference(
            features[frame].reshape(tokens, -1).double().numpy(),
            attention[frame].flatten().double().numpy(),
            min(options["num_chunks"], tokens),
            keep,
            weight=options.get("variance_weight", 0.09 if as_released else 1.0),
            paper=not as_released,
            power=options.get("power", 1.0),
        )
        assert actual == expected
        assert as_released or -1 not in actual


@pytest.mark.parametrize(
    ("tokens", "kept", "num_chunks", "lengths"),
    [
        (576, 64, 16, [36] * 16),
        (10, 4, 4, [3, 3, 2, 2]),
        (5, 2, 16, [1] * 5),
        (576, 64, None, [36] * 16),
        (100, 90, None, [100]),
        (196, 19, None, [11] * 16 + [10] * 2),
    ],
)
def test_chunk_lengths(tokens: int, kept: int, num_chunks: int | None, lengths: list[int]) -> None:
    assert HoloV(num_chunks=num_chunks).chunk_lengths(tokens, kept) == lengths


@pytest.mark.parametrize(
    ("scores", "kept", "released", "paper"),
    [
        ([0.5, 0.3, 0.2], 7, [4, 2, 1], [4, 2, 1]),
        ([0.25] * 4, 10, [3, 3, 2, 2], [3, 3, 2, 2]),
        ([900.0, 50.0, 50.0], 10, [10, 0, 0], [5, 3, 2]),
        ([0.0, 0.0, 0.0], 5, [1, 1, 1], [2, 2, 1]),
        ([1.0, 0.0, 0.0], 15, [15, 0, 0], [5, 5, 5]),
    ],
)
def test_quotas(scores: list[float], kept: int, released: list[int], paper: list[int]) -> None:
    lengths = torch.tensor([5] * len(scores))
    for as_released, expected in ((True, released), (False, paper)):
        quota = HoloV(as_released=as_released).quotas(torch.tensor([scores]), lengths, kept)
        assert quota.tolist() == [expected]


def test_even_attention_and_orthogonal_tokens_give_every_chunk_the_same() -> None:
    (places,) = emitted(
        run(torch.eye(16).reshape(1, 4, 4, 16), torch.full((1, 4, 4), 1 / 16), keep_tokens=10)
    )
    assert places == [*range(10)]
    (places,) = emitted(
        run(torch.eye(16).reshape(1, 4, 4, 16), torch.full((1, 4, 4), 1 / 16), keep_tokens=10, num_chunks=4)
    )
    assert places == [0, 1, 2, 4, 5, 6, 8, 9, 12, 13]


def test_one_chunk_is_attention_alone() -> None:
    features, attention = made(2, 6, 6)
    places = emitted(run(features, attention, keep_ratio=0.25, num_chunks=1))
    assert places == attention.flatten(1).argsort(1, descending=True)[:, :9].tolist()


def test_zero_rows_come_last_and_are_counted() -> None:
    features, attention = made(2, 4, 4, sharpness=0.0)
    attention[:, 0, 0] = 100.0
    reduction = run(features, attention, keep_tokens=12, num_chunks=4)
    assert len(reduction) == 12
    assert reduction.index.tolist() == [0, 1, 2, 3, 16, 17, 18, 19, -1, -1, -1, -1]
    assert not reduction.features[8:].any()
    assert emitted(reduction) == [[0, 1, 2, 3, -1, -1]] * 2


def test_a_frame_without_attention() -> None:
    features, _ = made(1, 4, 4)
    nothing = torch.zeros(1, 4, 4)
    assert emitted(run(features, nothing, keep_tokens=6, num_chunks=4)) == [[0, 4, 8, 12, -1, -1]]
    (kept,) = emitted(run(features, nothing, keep_tokens=6, num_chunks=4, as_released=False))
    assert kept == [0, 1, 4, 5, 8, 12]


def test_negative_attention_is_refused() -> None:
    features, attention = made(1, 4, 4)
    with pytest.raises(ValueError, match=r"signal 'saliency' must be at least 0 for holov, got -0\.5"):
        run(features, attention - 0.5 - attention.min(), keep_ratio=0.5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_chunks": 0}, ValueError),
        ({"num_chunks": 1.5}, TypeError),
        ({"variance_weight": -1}, ValueError),
        ({"power": float("nan")}, ValueError),
        ({"as_released": "no"}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        HoloV(**options)
