"""GreedyPrune against a plain loop, and its limits by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.pre_llm.greedyprune import GreedyPrune
from streamprune.reduce import reduce_tokens


def order_of(features: torch.Tensor, saliency: torch.Tensor, **options: float) -> list[int]:
    signals = {"saliency": saliency}
    reduction = reduce_tokens(features, "greedyprune", signals=signals, **options)  # type: ignore[arg-type]
    return reduction.index[reduction.order].tolist()


def made(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 6, 6, 5, generator=generator), torch.rand(3, 6, 6, generator=generator)


@pytest.mark.parametrize("threshold", [-0.2, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("seed", range(2))
def test_agrees_with_the_steps_written_out(threshold: float, seed: int) -> None:
    features, saliency = made(seed)
    expected: list[int] = []
    for t, (x, w) in enumerate(
        zip(features.double().flatten(1, 2).numpy(), saliency.flatten(1), strict=True)
    ):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        picks: list[int] = []
        aside: list[int] = []
        for token in w.argsort(descending=True, stable=True).tolist():
            alike = any(unit[token] @ unit[pick] > threshold for pick in picks)
            (aside if alike else picks).append(token)
        expected += [token + 36 * t for token in (picks + aside)[:14]]
        unrelaxed = unit[picks[:14]] @ unit[picks[:14]].T
        assert (unrelaxed - 2 * np.eye(len(unrelaxed)) <= threshold).all()
    assert order_of(features, saliency, keep_ratio=0.4, similarity_threshold=threshold) == expected


def test_a_threshold_of_one_is_plain_saliency_even_for_copies() -> None:
    _, saliency = made(0)
    copies = torch.randn(1, 1, 1, 7, generator=torch.Generator().manual_seed(0)).expand(3, 6, 6, 7)
    kept = order_of(copies, saliency, keep_ratio=0.25, similarity_threshold=1.0)
    by_saliency = saliency.flatten(1).argsort(1, descending=True)[:, :9] + 36 * torch.arange(3)[:, None]
    assert kept == by_saliency.flatten().tolist()


def test_a_copy_gives_way_to_something_else() -> None:
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]).reshape(1, 1, 3, 2)
    saliency = torch.tensor([[[0.9, 0.8, 0.5]]])
    assert order_of(features, saliency, keep_tokens=2, similarity_threshold=0.99) == [0, 2]


@pytest.mark.parametrize("bad", [1.01, -2.0, float("nan")])
def test_options(bad: float) -> None:
    with pytest.raises(ValueError, match=r"similarity_threshold must be in \[-1, 1\]"):
        GreedyPrune(similarity_threshold=bad)
