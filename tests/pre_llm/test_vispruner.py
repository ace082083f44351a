"""FasterVLM and VisPruner against plain references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.pre_llm.vispruner import VisPruner
from streamprune.reduce import reduce_tokens


def made(
    frames: int, rows: int, cols: int, *, width: int = 9, seed: int = 0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(frames, rows, cols, 5, generator=generator), {
        "saliency": torch.rand(frames, rows, cols, generator=generator),
        "encoder_features": torch.randn(frames, rows, cols, width, generator=generator),
    }


def kept_by(
    name: str, features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any
) -> list[list[int]]:
    """Places kept in each frame, as they stand in the result."""
    reduction = reduce_tokens(features, name, signals=signals, **options)
    per_frame = features.shape[1] * features.shape[2]
    kept: list[list[int]] = [[] for _ in features]
    for token in reduction.index.tolist():
        kept[token // per_frame].append(token % per_frame)
    assert torch.equal(reduction.features, features.flatten(0, 2)[reduction.index])
    return kept


def reference(
    saliency: np.ndarray[Any, Any], x: np.ndarray[Any, Any], important: int, diverse: int, step: int
) -> list[int]:
    """Tokens of one frame, the duplicates removed with Python lists."""
    ranked = sorted(range(len(saliency)), key=lambda i: (-saliency[i], i))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    rest = ranked[important:]
    while len(rest) > diverse and diverse:
        even, odd = rest[::2], rest[1::2]
        closest = {a: max(float(unit[a] @ unit[b]) for b in odd) for a in even}
        redundant = sorted(even, key=lambda a: -closest[a])
        rest = redundant[min(step, len(rest) - diverse) :] + odd
    return sorted(ranked[:important] + rest * bool(diverse))


@pytest.mark.parametrize(
    ("shape", "keep", "ratio", "step"),
    [
        ((3, 6, 6), 8, 0.5, 8),
        ((2, 5, 7), 9, 0.5, 8),
        ((2, 5, 5), 3, 0.4, 8),
        ((2, 6, 5), 12, 0.0, 3),
        ((1, 6, 5), 12, 1.0, 8),
        ((9, 4, 4), 2, 0.5, 1),
        ((2, 3, 3), 1, 0.5, 8),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], keep: int, ratio: float, step: int, seed: int
) -> None:
    features, signals = made(*shape, seed=seed)
    kept = kept_by(
        "vispruner",
        features,
        signals,
        keep_tokens=keep * shape[0],
        important_ratio=ratio,
        drop_per_round=step,
    )
    important = int(keep * ratio)
    for frame in range(shape[0]):
        assert kept[frame] == reference(
            signals["saliency"][frame].flatten().double().numpy(),
            signals["encoder_features"][frame].flatten(0, 1).double().numpy(),
            important,
            keep - important,
            step,
        )


def test_every_token_important_is_fastervlm() -> None:
    features, signals = made(3, 6, 6)
    only = {"saliency": signals["saliency"]}
    expected = kept_by("fastervlm", features, only, keep_ratio=0.3)
    assert kept_by("vispruner", features, signals, keep_ratio=0.3, important_ratio=1.0) == expected
    for frame, places in enumerate(expected):
        assert places == sorted(signals["saliency"][frame].flatten().argsort(descending=True)[:10].tolist())


def test_fastervlm_treats_each_crop_alone() -> None:
    features, signals = made(5, 24, 24)
    kept = kept_by("fastervlm", features, {"saliency": signals["saliency"]}, keep_tokens=5 * 29)
    assert [len(places) for places in kept] == [29] * 5
    ordered = torch.arange(16.0).reshape(1, 4, 4)
    for saliency, places in ((ordered, [12, 13, 14, 15]), (torch.ones(1, 4, 4), [0, 1, 2, 3])):
        assert kept_by("fastervlm", features[:1, :4, :4], {"saliency": saliency}, keep_ratio=0.25) == [places]


def test_released_setting_of_64_of_576() -> None:
    features, signals = made(1, 24, 24)
    (kept,) = kept_by("vispruner", features, signals, keep_tokens=64)
    ranking = signals["saliency"].flatten().argsort(descending=True).tolist()
    assert len(kept) == 64
    assert set(ranking[:32]) < set(kept)
    assert set(ranking[32:64]) - set(kept), "the other half is not chosen by saliency"


def test_of_two_equal_neighbours_in_rank_the_even_one_goes_first() -> None:
    features, signals = made(1, 2, 3)
    signals["saliency"] = torch.arange(6.0, 0, -1).reshape(1, 2, 3)
    rows = torch.eye(6)
    rows[3] = rows[2]
    signals["encoder_features"] = rows.reshape(1, 2, 3, 6)
    (kept,) = kept_by("vispruner", features, signals, keep_tokens=5, important_ratio=0.0)
    assert kept == [0, 1, 3, 4, 5]


def test_an_odd_list_which_the_release_refuses() -> None:
    features, signals = made(1, 10, 10)
    (kept,) = kept_by("vispruner", features, signals, keep_tokens=10)
    assert len(kept) == 10


def test_zero_vectors_resemble_nothing() -> None:
    features, signals = made(1, 2, 2)
    signals["saliency"] = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
    signals["encoder_features"] = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1], [1.0, 0.0]]).reshape(
        1, 2, 2, 2
    )
    (kept,) = kept_by("vispruner", features, signals, keep_tokens=3, important_ratio=0.0)
    assert kept == [0, 1, 3]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"important_ratio": 1.5}, ValueError),
        ({"important_ratio": float("nan")}, ValueError),
        ({"important_ratio": "half"}, TypeError),
        ({"drop_per_round": 0}, ValueError),
        ({"drop_per_round": 1.5}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        VisPruner(**options)
