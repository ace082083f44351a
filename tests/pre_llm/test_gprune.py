"""G-Prune against float64 numpy, by hand, and its options."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.pre_llm.gprune import GPrune
from streamprune.reduce import reduce_tokens


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def written_out(
    features: torch.Tensor, kept: int, threshold: float, temperature: float, steps: int
) -> list[int]:
    """The published steps in float64, with the power of the matrix."""
    order = []
    for t, x in enumerate(features.double().flatten(1, 2).numpy()):
        length = np.linalg.norm(x, axis=1)
        cosine = (x / length[:, None]) @ (x / length[:, None]).T
        edges = np.where(cosine < threshold, 0, cosine) / temperature
        edges[np.abs(edges) < 1e-6] = -5000
        graph = np.exp(edges - edges.max(1, keepdims=True))
        graph /= graph.sum(1, keepdims=True)
        score = length @ np.linalg.matrix_power(graph, steps) / (graph > 0).sum(1)
        order += (np.argsort(-score, kind="stable")[:kept] + t * len(x)).tolist()
    return order


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"similarity_threshold": 0.2, "temperature": 0.3, "steps": 2},
        {"similarity_threshold": -0.5, "temperature": 0.1, "steps": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_steps_written_out(options: dict[str, Any], seed: int) -> None:
    features = draw(4, 6, 7, 5, seed=seed)
    reduction = reduce_tokens(features, "gprune", keep_ratio=0.3, **options)
    values = (
        options.get("similarity_threshold", 0.5),
        options.get("temperature", 0.03),
        options.get("steps", 5),
    )
    assert reduction.index[reduction.order].tolist() == written_out(features, 12, *values)


def test_unrelated_tokens_go_by_their_length() -> None:
    lengths = torch.tensor([2.0, 5.0, 1.0, 4.0])
    frame = torch.diag(lengths).reshape(1, 2, 2, 4)
    reduction = reduce_tokens(frame, "gprune", keep_tokens=3)
    assert reduction.index[reduction.order].tolist() == [1, 3, 0]
    score, neighbors = GPrune().scores(frame.flatten(1, 2))
    torch.testing.assert_close(score[0], lengths)
    assert neighbors.tolist() == [[1, 1, 1, 1]]


def test_copies_are_a_tie_that_goes_to_the_first() -> None:
    frame = draw(1, 1, 1, 30).expand(2, 7, 9, -1)
    score, neighbors = GPrune().scores(frame.flatten(1, 2))
    assert (score == score[0, 0]).all()
    assert (neighbors == 63).all()
    torch.testing.assert_close(score[0, 0] * 63, frame[0, 0, 0].norm())
    reduction = reduce_tokens(frame, "gprune", keep_ratio=0.1)
    assert reduction.index.tolist() == [*range(6), *range(63, 69)]


def test_options() -> None:
    released = {"similarity_threshold": 0.5, "temperature": 0.03, "steps": 5}
    assert {name: value for name, value in asdict(GPrune()).items() if name != "budget"} == released
    for bad in ({"similarity_threshold": 1.5}, {"temperature": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            GPrune(**bad)
