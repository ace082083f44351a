"""The first stage of VScan against a float64 reference, and its counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.vscan import VScan
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid


def made(
    frames: int, rows: int, cols: int, *, channels: int = 8, seed: int = 0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(frames, rows, cols, channels, generator=generator)
    shallow, deep = torch.rand(2, frames, rows, cols, generator=generator)
    return features, {"received_attention_shallow": shallow, "received_attention": deep}


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "vscan", signals=signals, **options)


def reference(
    x: np.ndarray[Any, Any],
    shallow: list[float],
    deep: list[float],
    rows: int,
    cols: int,
    keep: int,
    *,
    form: str,
    window: int,
    local_ratio: float,
    fill: bool,
) -> dict[int, np.ndarray[Any, Any]]:
    """Kept token -> value of one frame."""
    down, across = max(1, rows // window), max(1, cols // window)
    windows = [
        (min(i // cols // window, down - 1), min(i % cols // window, across - 1)) for i in range(rows * cols)
    ]
    meant = int(keep * local_ratio)
    limit = meant // (down * across) if form == "llava" else -(-meant // (down * across))
    taken = dict.fromkeys(windows, 0)
    local: list[int] = []
    for i in sorted(range(len(x)), key=lambda i: (-shallow[i], i)):
        if taken[windows[i]] < limit and (form == "llava" or len(local) < meant):
            taken[windows[i]] += 1
            local.append(i)
    globally = keep - (len(local) if fill else meant)
    rest = sorted((i for i in range(len(x)) if i not in local), key=lambda i: (-deep[i], i))
    kept = sorted(local + rest[: globally if local else max(1, globally)])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    groups = {i: [i] for i in kept}
    for i in range(len(x)):
        if i not in groups:
            groups[kept[int(np.argmax([unit[i] @ unit[k] for k in kept]))]].append(i)
    return {i: x[group].mean(0) for i, group in groups.items()}


@pytest.mark.parametrize("form", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize(
    ("shape", "keep", "options"),
    [
        ((3, 12, 12), 30, {}),
        ((2, 7, 9), 20, {"window": 3}),
        ((2, 5, 6), 11, {"window": 2, "local_ratio": 0.8}),
        ((2, 6, 6), 9, {"local_ratio": 0.0}),
        ((2, 5, 7), 34, {"window": 2, "local_ratio": 1.0}),
        ((2, 4, 4), 2, {"window": 1, "local_ratio": 1.0}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    form: str, fill: bool, shape: tuple[int, int, int], keep: int, options: dict[str, Any], seed: int
) -> None:
    features, signals = made(*shape, seed=seed)
    reduction = run(features, signals, keep_tokens=keep * shape[0], form=form, fill_budget=fill, **options)
    tokens = shape[1] * shape[2]
    expected: dict[int, np.ndarray[Any, Any]] = {}
    for frame in range(shape[0]):
        kept = reference(
            features[frame].reshape(tokens, -1).double().numpy(),
            signals["received_attention_shallow"][frame].flatten().tolist(),
            signals["received_attention"][frame].flatten().tolist(),
            *shape[1:],
            keep,
            form=form,
            window=options.get("window", 6 if form == "llava" else 4),
            local_ratio=options.get("local_ratio", 0.5),
            fill=fill,
        )
        assert not fill or len(kept) == keep
        expected.update({token + frame * tokens: value for token, value in kept.items()})
    assert reduction.index.tolist() == list(expected)
    np.testing.assert_allclose(reduction.features, np.stack(list(expected.values())), atol=1e-5)
    assert float(reduction.size.sum()) == reduction.grid.tokens


@pytest.mark.parametrize(
    ("asked", "kept", "filled"),
    [(192, 192, 192), (128, 128, 128), (96, 96, 96), (100, 98, 100), (20, 10, 20)],
)
def test_released_counts_of_24_by_24(asked: int, kept: int, filled: int) -> None:
    grid = VideoGrid(3, 24, 24)
    for fill, expected in ((False, kept), (True, filled)):
        method = VScan(budget=Budget(keep_tokens=3 * asked), fill_budget=fill)
        assert method.count(grid) == 3 * expected


def test_windows_are_walked_by_falling_attention() -> None:
    attention = torch.tensor([[9.0, 8, 1, 2], [7, 6, 3, 4]]).flatten()[None]
    grid = VideoGrid(1, 2, 4)
    for form, picked in (("llava", [0, 7]), ("qwen2_5_vl", [0, 1, 7])):
        method = VScan(form=form, window=2, local_ratio=1.0, budget=Budget(keep_tokens=3))  # type: ignore[arg-type]
        assert method.local_scan(attention, grid).tolist() == [picked]


def test_what_the_windows_chose_is_not_chosen_again() -> None:
    features, signals = made(1, 6, 6)
    signals = dict.fromkeys(signals, signals["received_attention"])
    reduction = run(features, signals, keep_tokens=10, window=3)
    assert len(reduction) == 9, "one of each window and five others"


def test_a_kept_token_is_the_mean_of_itself_and_what_joined_it() -> None:
    rows = torch.tensor([[1.0, 0.0], [4.0, 0.1], [0.0, 2.0], [-1.0, 5.0]]).reshape(1, 1, 4, 2)
    attention = torch.tensor([4.0, 1.0, 3.0, 1.0]).reshape(1, 1, 4)
    signals = {"received_attention_shallow": attention, "received_attention": attention}
    reduction = run(rows[:, :, :3], {k: v[:, :, :3] for k, v in signals.items()}, keep_tokens=2)
    assert reduction.features.tolist() == [[2.5, pytest.approx(0.05)], [0.0, 2.0]]
    reduction = run(rows, signals, keep_tokens=2)
    assert reduction.features.tolist() == [[2.5, pytest.approx(0.05)], [-0.5, 3.5]]


def test_a_frame_keeps_one_token_at_least() -> None:
    features, signals = made(2, 12, 12)
    reduction = run(features, signals, keep_tokens=6, local_ratio=1.0)
    best = signals["received_attention"].flatten(1).argmax(1)
    assert reduction.index.tolist() == [int(best[0]), 144 + int(best[1])]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "clip"}, ValueError),
        ({"local_ratio": -0.1}, ValueError),
        ({"local_ratio": "half"}, TypeError),
        ({"window": 0}, ValueError),
        ({"fill_budget": 1}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        VScan(**options)
