"""DyToK against a float64 reference, one frame at a time, and its parts by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.errors import SignalError
from streamprune.pre_llm.dytok import DyToK
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, rows, cols)
    return torch.randn(*shape, 5, generator=generator), {
        "query_frame_attention": torch.rand(frames, generator=generator) ** 3,
        "received_attention": torch.rand(shape, generator=generator),
        "keys": torch.randn(*shape, 8, generator=generator),
    }


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "dytok", signals=signals, **options)


def parts(attention: Floats, total: int, cap: int) -> list[int]:
    exact = attention / attention.sum() * total
    part = [math.floor(share) for share in exact]
    for frame in sorted(range(len(part)), key=lambda i: part[i] - exact[i])[: total - sum(part)]:
        part[frame] += 1
    excess = sum(max(0, n - cap) for n in part)
    part = [min(n, cap) for n in part]
    while excess and min(part) < cap:
        for frame in sorted(range(len(part)), key=lambda i: -attention[i]):
            if excess and part[frame] < cap:
                part[frame] += 1
                excess -= 1
    return part


def compress(
    x: Floats, received: Floats, keys: Floats, part: int, host: str, merge: str
) -> list[tuple[int, Floats]]:
    """(token, value) of one frame as emitted."""
    first = 6 * part // 7 if host == "visionzip" else part
    ranking = sorted(range(len(x)), key=lambda token: (-received[token], token))
    dominant, rest = sorted(ranking[:first]), sorted(ranking[first:])
    out = [(token, x[token]) for token in dominant]
    if part == first:
        return out
    targets = rest[:: max(1, len(rest) // (part - first))][: part - first]
    members: dict[int, list[int]] = {target: [] for target in targets}
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    for token in rest:
        if token not in members:
            members[targets[int(np.argmax([unit[token] @ unit[target] for target in targets]))]].append(token)
    for target, joined in members.items():
        if merge == "mean":
            out.append((target, x[[target, *joined]].mean(0)))
        else:
            out.append((target, x[target] + (x[joined].mean(0) if joined else 0)))
    return out


@pytest.mark.parametrize(
    ("shape", "total", "options"),
    [
        ((6, 5, 7), 50, {}),
        ((6, 5, 7), 120, {"frame_cap": 25}),
        ((9, 4, 4), 30, {"merge": "mean"}),
        ((5, 6, 6), 100, {"host": "attention"}),
        ((4, 5, 5), 7, {}),
        ((3, 5, 5), 70, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], total: int, options: dict[str, Any], seed: int
) -> None:
    features, signals = made(*shape, seed)
    reduction = run(features, signals, keep_tokens=total, **options)
    in_frame = shape[1] * shape[2]
    split = parts(
        signals["query_frame_attention"].double().numpy(), total, options.get("frame_cap", in_frame)
    )
    emitted, values = [], []
    for frame, part in enumerate(split):
        expected = compress(
            features[frame].double().numpy().reshape(in_frame, -1),
            signals["received_attention"][frame].double().numpy().reshape(-1),
            signals["keys"][frame].double().numpy().reshape(in_frame, -1),
            part,
            options.get("host", "visionzip"),
            options.get("merge", "sum"),
        )
        emitted += [token + in_frame * frame for token, _ in expected]
        values += [value for _, value in expected]
    assert sum(split) == total
    assert reduction.index[reduction.order].tolist() == emitted
    np.testing.assert_allclose(reduction.features[reduction.order], np.stack(values), atol=1e-5)


def per_frame(reduction: Reduction) -> list[int]:
    grid = reduction.grid
    return torch.bincount(reduction.index // grid.tokens_per_frame, minlength=grid.frames).tolist()


@pytest.mark.parametrize(
    ("attention", "total", "cap", "expected"),
    [
        ([0.5, 0.5, 0.5, 0.5], 196, None, [49, 49, 49, 49]),
        ([0.5, 0.3, 0.2], 10, 4, [4, 4, 2]),
        ([0.55, 0.25, 0.2], 10, None, [6, 2, 2]),
        ([0.0, 1.0, 0.0], 20, 14, [3, 14, 3]),
        ([0.0, 0.0], 9, None, [5, 4]),
        ([0.9, 0.1, 0.0], 10, None, [9, 1, 0]),
    ],
    ids=str,
)
def test_parts_by_hand(attention: list[float], total: int, cap: int | None, expected: list[int]) -> None:
    features, signals = made(len(attention), 9, 9)
    signals["query_frame_attention"] = torch.tensor(attention)
    assert per_frame(run(features, signals, keep_tokens=total, frame_cap=cap)) == expected


@pytest.mark.parametrize(("part", "merged"), [(78, 12), (7, 1), (1, 1), (6, 1), (14, 2)])
def test_six_sevenths_of_a_part_stay_unchanged(part: int, merged: int) -> None:
    features, signals = made(1, 20, 20)
    reduction = run(features, signals, keep_tokens=part)
    assert int((reduction.weights.to_dense().sum(1) == 1).sum()) == part - merged
    assert float(reduction.size.sum()) == 400


def test_a_cap_that_holds_less_than_the_budget_is_announced() -> None:
    features, signals = made(4, 5, 5)
    reduction = run(features, signals, keep_tokens=60, frame_cap=10)
    assert per_frame(reduction) == [10] * 4


def test_keys_are_needed_only_to_merge() -> None:
    features, signals = made(3, 4, 4)
    del signals["keys"]
    assert len(run(features, signals, keep_tokens=9, host="attention")) == 9
    assert DyToK(host="attention").needs == ("query_frame_attention", "received_attention")
    with pytest.raises(SignalError, match="'keys'"):
        run(features, signals, keep_tokens=9)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"host": "fastv"}, ValueError),
        ({"merge": "max"}, ValueError),
        ({"frame_cap": 0}, ValueError),
        ({"frame_cap": 1.5}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        DyToK(**options)
