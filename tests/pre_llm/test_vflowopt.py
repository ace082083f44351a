"""VFlowOpt against a float64 reference, its cells by hand, and what it does without importance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.errors import SignalError
from streamprune.pre_llm.vflowopt import VFlowOpt
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, rows, cols, 6, generator=generator)
    attention = torch.softmax(2 * torch.randn(frames, rows * cols, generator=generator), 1)
    entropy = 5 * torch.rand(frames, rows, cols, generator=generator)
    return features, {
        "context_attention": attention.reshape(frames, rows, cols),
        "pixel_entropy": entropy,
    }


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "vflowopt", signals=signals, **options)


def reference(x: Floats, importance: Floats, keep: int, side: float | None) -> dict[int, Floats]:
    """Kept token -> value for features and importance on a (frames, rows, cols) grid."""
    frames, rows, cols, _ = x.shape
    flat, weight = x.reshape(frames * rows * cols, -1), importance.reshape(-1)
    best = sorted(range(len(flat)), key=lambda token: (-weight[token], token))
    if side is None:
        return {token: flat[token] for token in best[:keep]}
    plain = best[: max(0, keep - int(len(flat) / side / side))]
    kept = {token: flat[token] for token in plain}
    cells: dict[tuple[int, int, int], list[int]] = {}
    for token in sorted(set(best) - set(plain)):
        frame, place = divmod(token, rows * cols)
        row, col = divmod(place, cols)
        cells.setdefault((frame, math.floor(row / side), math.floor(col / side)), []).append(token)
    for members in cells.values():
        share = weight[members] / weight[members].sum()
        kept[members[int(np.argmax(weight[members]))]] = share @ flat[members]
    return kept


@pytest.mark.parametrize("side", [None, 1.0, 2.0, 3.3, 15.58])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.4])
@pytest.mark.parametrize(("shape", "keep"), [((3, 7, 6), 30), ((5, 4, 9), 61), ((1, 8, 8), 13)])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], keep: int, entropy_weight: float, side: float | None
) -> None:
    features, signals = made(*shape)
    options: dict[str, Any] = {} if side is None else {"form": "image", "recycling_cell": side}
    reduction = run(features, signals, keep_tokens=keep, entropy_weight=entropy_weight, **options)
    importance = signals["context_attention"].double().numpy()
    entropy = np.exp(signals["pixel_entropy"].double().numpy() / math.log(2))
    importance = importance + entropy_weight * entropy / entropy.sum((1, 2), keepdims=True)
    expected = reference(features.double().numpy(), importance, keep, side)
    assert reduction.index.tolist() == sorted(expected)
    np.testing.assert_allclose(
        reduction.features, np.stack([expected[token] for token in sorted(expected)]), atol=1e-5
    )


def test_released_defaults() -> None:
    method = VFlowOpt()
    assert (method.form, method.recycling_cell, method.entropy_weight) == ("video", None, 0.0)
    features, signals = made(2, 9, 9)
    wide, default = (
        run(features, signals, keep_ratio=0.2, form="image", **options)
        for options in ({"recycling_cell": 15.58}, {})
    )
    assert torch.equal(wide.features, default.features)


@pytest.mark.parametrize(
    ("tokens", "ratio", "kept"), [(10, 0.25, 2), (14, 0.25, 4), (7, 0.4, 3), (8, 0.25, 2)]
)
def test_the_share_is_rounded_half_to_even(tokens: int, ratio: float, kept: int) -> None:
    features, signals = made(1, 1, tokens)
    assert len(run(features, signals, keep_ratio=ratio)) == kept


def test_frames_compete_for_one_budget() -> None:
    features, signals = made(3, 4, 4)
    signals["context_attention"][1] += 1
    assert run(features, signals, keep_tokens=16).index.tolist() == list(range(16, 32))


def test_a_cell_with_one_token_left_returns_it_unchanged_and_weights_add_up() -> None:
    features, signals = made(2, 6, 6)
    single = run(features, signals, keep_tokens=40, form="image", recycling_cell=1)
    assert torch.equal(single.index, torch.arange(72))
    torch.testing.assert_close(single.features, features.reshape(72, -1))
    blended = run(features, signals, keep_tokens=40, form="image", recycling_cell=3)
    torch.testing.assert_close(blended.weights.to_dense().sum(1), torch.ones(len(blended)))
    assert (blended.source >= 0).all()
    assert len(blended) == 40 - 8 + 8


def test_a_cell_covering_the_frame_recycles_into_one_token_each() -> None:
    features, signals = made(4, 5, 5)
    reduction = run(features, signals, keep_tokens=30, form="image", recycling_cell=math.inf)
    assert len(reduction) == 30 + 4
    assert float(reduction.size.sum()) == 100


def test_cells_without_importance_are_averaged() -> None:
    features, signals = made(1, 4, 4)
    signals["context_attention"] = torch.zeros(1, 4, 4)
    signals["context_attention"][0, 0, 0] = 1.0
    reduction = run(features, signals, keep_tokens=5, form="image", recycling_cell=2)
    flat = features.reshape(4, 4, -1)
    assert reduction.index.tolist() == [0, 1, 2, 8, 10]
    torch.testing.assert_close(reduction.features[2], flat[:2, 2:].mean((0, 1)))
    torch.testing.assert_close(reduction.features[1], (flat[0, 1] + flat[1, 0] + flat[1, 1]) / 3)


def test_negative_importance_counts_as_none_in_a_cell() -> None:
    features, signals = made(1, 2, 2)
    signals["context_attention"] = torch.tensor([[[0.4, 0.0], [0.1, 0.0]]])
    signals["pixel_entropy"] = torch.zeros(1, 2, 2)
    reduction = run(
        features, signals, keep_tokens=1, form="image", recycling_cell=math.inf, entropy_weight=-0.8
    )
    # importance 0.2, -0.2, -0.1, -0.2: the first is kept, the others are all below zero
    assert reduction.index.tolist() == [0, 2]
    torch.testing.assert_close(reduction.features[1], features.reshape(4, -1)[1:].mean(0))


def test_the_entropy_is_needed_only_when_it_counts() -> None:
    features, signals = made(2, 4, 4)
    del signals["pixel_entropy"]
    assert VFlowOpt(entropy_weight=0.1).needs == ("context_attention", "pixel_entropy")
    assert VFlowOpt().needs == ("context_attention",)
    assert len(run(features, signals, keep_tokens=5)) == 5
    with pytest.raises(SignalError, match="'pixel_entropy'"):
        run(features, signals, keep_tokens=5, entropy_weight=0.1)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "film"}, ValueError),
        ({"entropy_weight": 1.5}, ValueError),
        ({"form": "image", "recycling_cell": 0.5}, ValueError),
        ({"form": "image", "recycling_cell": "wide"}, TypeError),
        ({"recycling_cell": 4.0}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=str(list(options)[-1])):
        VFlowOpt(**options)
