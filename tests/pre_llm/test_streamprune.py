"""Our own method: against a plain reference, and what its terms are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.pre_llm.streamprune import StreamPrune
from streamprune.reduce import reduce_tokens
from tests.contract.table import clip


def reference(
    features: torch.Tensor, saliency: torch.Tensor, count: int, neighbor: float = 0.6, power: float = 0.5
) -> list[int]:
    """The picks in order, from the whole matrix of cosines in float64."""
    frames, per_frame = features.shape[0], features.shape[1] * features.shape[2]
    flat = features.reshape(frames * per_frame, -1).double().numpy()
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    frame = np.repeat(np.arange(frames), per_frame)
    apart = np.abs(frame[:, None] - frame)
    alike = (unit @ unit.T) * np.where(apart == 0, 1.0, np.where(apart == 1, neighbor, 0.0))
    weight = saliency.reshape(frames, -1).double().numpy()
    weight = (weight / weight.mean(1, keepdims=True)).reshape(-1) ** power
    picks: list[int] = []
    for _ in range(count):
        covered = alike[:, picks].max(1).clip(min=0) if picks else np.zeros(len(flat))
        worth = (1 - covered) * weight
        worth[picks] = -np.inf
        picks.append(int(worth.argmax()))
    return picks


@pytest.mark.parametrize(
    "options", [{}, {"neighbor_weight": 1.0, "saliency_power": 2}, {"neighbor_weight": 0}]
)
@pytest.mark.parametrize("shape", [(8, 6, 5), (1, 7, 7), (5, 3, 4), (12, 1, 5)])
def test_picks_are_the_references(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    features = clip(*shape)
    saliency = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.01
    total = features[..., 0].numel()
    for count in (1, total // 10 + 1, total // 2):
        reduction = reduce_tokens(
            features, "streamprune", keep_tokens=count, signals={"saliency": saliency}, **options
        )
        expected = reference(
            features, saliency, count, options.get("neighbor_weight", 0.6), options.get("saliency_power", 0.5)
        )
        emitted = reduction.index[reduction.order].tolist()
        assert emitted == expected


def test_a_look_that_stays_is_kept_again_but_not_in_the_next_frame() -> None:
    # one token stands out in every frame and looks the same; all others are as good as equal
    features = torch.randn(1, 4, 4, 64, generator=torch.Generator().manual_seed(0)).repeat(9, 1, 1, 1)
    saliency = torch.full((9, 4, 4), 0.01)
    saliency[:, 2, 1] = 1.0
    reduction = reduce_tokens(features, "streamprune", keep_tokens=5, signals={"saliency": saliency})
    frame, row, col = reduction.grid.places(reduction.index)
    assert frame.tolist() == [0, 2, 4, 6, 8]
    assert set(zip(row.tolist(), col.tolist(), strict=True)) == {(2, 1)}


def test_the_budget_goes_where_there_is_something_to_see() -> None:
    still = torch.ones(8, 4, 4, 32)
    still[3] = torch.randn(4, 4, 32, generator=torch.Generator().manual_seed(0))
    kept = reduce_tokens(still, "streamprune", keep_tokens=20, signals={"saliency": torch.ones(8, 4, 4)})
    per_frame = torch.bincount(kept.index // 16, minlength=8)
    assert per_frame[3] == 16


def test_negative_and_absent_saliency_are_defined() -> None:
    features = clip()
    for saliency in (torch.zeros(8, 6, 5), -torch.rand(8, 6, 5)):
        reduction = reduce_tokens(features, "streamprune", keep_ratio=0.2, signals={"saliency": saliency})
        plain = reduce_tokens(
            features, "streamprune", keep_ratio=0.2, signals={"saliency": torch.ones(8, 6, 5)}
        )
        assert torch.equal(reduction.index, plain.index)


@pytest.mark.parametrize(
    "options",
    [{"neighbor_weight": 1.1}, {"neighbor_weight": -0.1}, {"saliency_power": 5}, {"saliency_power": True}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        StreamPrune(**options)
