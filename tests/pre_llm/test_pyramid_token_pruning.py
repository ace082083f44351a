"""Pyramid Token Pruning against a float64 reference, region by region."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.budget import split_by_weight
from streamprune.errors import SignalError
from streamprune.pre_llm.pyramid_token_pruning import PyramidTokenPruning
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction

Floats = npt.NDArray[np.float64]


def made(frames: int, rows: int, cols: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, rows, cols)
    logits = 1.5 * torch.randn(frames, rows * cols, generator=generator)
    return torch.randn(*shape, 4, generator=generator), {
        "saliency": torch.softmax(logits, 1).reshape(shape),
        "text_embeds": torch.randn(3, 9, generator=generator),
        "image_embeds": torch.randn(*shape, 9, generator=generator),
    }


def run(features: torch.Tensor, signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    return reduce_tokens(features, "pyramid_token_pruning", signals=signals, **options)


def unit(rows: Floats) -> Floats:
    length: Floats = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / length


def scaled(values: Floats) -> Floats:
    moved: Floats = (values - values.min()) / np.ptp(values)
    return moved


def frame_reference(saliency: Floats, relevance: Floats, alpha: float, sides: int, total: int) -> list[int]:
    """Tokens of a (rows, cols) frame that stay."""
    rows, cols = saliency.shape
    score = (1 - alpha) * scaled(saliency) + alpha * scaled(relevance)
    regions: dict[tuple[int, int], list[int]] = {}
    for row in range(rows):
        for col in range(cols):
            place = (row * min(sides, rows) // rows, col * min(sides, cols) // cols)
            regions.setdefault(place, []).append(row * cols + col)
    mass = [float(saliency.reshape(-1)[members].sum()) for members in regions.values()]
    kept = []
    parts = split_by_weight(total, mass, [len(members) for members in regions.values()])
    for members, part in zip(regions.values(), parts, strict=True):
        kept += sorted(members, key=lambda token: (-score.reshape(-1)[token], token))[:part]
    return sorted(kept)


@pytest.mark.parametrize(
    ("shape", "total", "options"),
    [
        ((3, 6, 8), 9, {}),
        ((2, 7, 7), 20, {"regions": 3}),
        ((4, 5, 6), 8, {"instruction_weight": 0.0}),
        ((4, 5, 6), 25, {"instruction_weight": 1.0, "regions": 2}),
        ((2, 3, 9), 10, {"regions": 5, "instruction_weight": 0.2}),
        ((3, 6, 6), 7, {"regions": 1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], total: int, options: dict[str, Any], seed: int
) -> None:
    features, signals = made(*shape, seed)
    given = {name: signal.double().numpy() for name, signal in signals.items()}
    relevance = (unit(given["image_embeds"]) @ unit(given["text_embeds"]).T).max(-1)
    expected = [
        token + frame * shape[1] * shape[2]
        for frame in range(shape[0])
        for token in frame_reference(
            given["saliency"][frame],
            relevance[frame],
            options.get("instruction_weight", 0.5),
            options.get("regions", 2),
            total,
        )
    ]
    assert run(features, signals, keep_tokens=total * shape[0], **options).index.tolist() == expected


def per_region(reduction: Reduction) -> list[int]:
    """Tokens kept in the quarters of all frames."""
    _, row, col = reduction.grid.places(reduction.index)
    half = (row >= reduction.grid.rows // 2) * 2 + (col >= reduction.grid.cols // 2)
    return torch.bincount(half, minlength=4).tolist()


def test_equally_salient_regions_get_equal_parts() -> None:
    features, signals = made(1, 6, 6)
    quarter = torch.rand(3, 3, generator=torch.Generator().manual_seed(1))
    signals["saliency"] = quarter.repeat(2, 2)[None]
    assert per_region(run(features, signals, keep_tokens=20)) == [5, 5, 5, 5]


def test_a_salient_region_gets_more_and_overflows_into_the_next() -> None:
    features, signals = made(1, 4, 4)
    signals["saliency"] = torch.full((1, 4, 4), 0.05)
    signals["saliency"][0, :2, :2] = 1.0
    signals["saliency"][0, 2:, 2:] = 0.3
    assert per_region(run(features, signals, keep_tokens=6)) == [4, 0, 0, 2]
    assert per_region(run(features, signals, keep_tokens=11)) == [4, 2, 1, 4]


def test_without_the_question_only_saliency_is_needed() -> None:
    features, signals = made(2, 6, 6)
    saliency = {"saliency": signals["saliency"]}
    assert PyramidTokenPruning(instruction_weight=0).needs == ("saliency",)
    assert len(run(features, saliency, keep_ratio=0.25, instruction_weight=0)) == 18
    with pytest.raises(SignalError, match="'text_embeds'"):
        run(features, saliency, keep_ratio=0.25)


def test_only_the_question_decides_at_weight_one() -> None:
    features, signals = made(1, 5, 5)
    alike = torch.randperm(25, generator=torch.Generator().manual_seed(2)).float()
    angle = alike / 50
    signals["text_embeds"] = torch.tensor([[1.0, 0.0]])
    signals["image_embeds"] = torch.stack([angle.cos(), angle.sin()], -1).reshape(1, 5, 5, 2)
    kept = run(features, signals, keep_tokens=6, regions=1, instruction_weight=1).index
    assert sorted(alike[kept].tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"regions": 0}, ValueError),
        ({"regions": 2.0}, TypeError),
        ({"instruction_weight": 1.1}, ValueError),
        ({"instruction_weight": None}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        PyramidTokenPruning(**options)
