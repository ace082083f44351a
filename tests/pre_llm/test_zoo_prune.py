"""ZOO-Prune against float64 numpy, by hand, and with sensitivities of known projectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.sensitivity import sensitivity
from streamprune.reduce import reduce_tokens


def order_of(features: torch.Tensor, scores: torch.Tensor, **budget: float) -> list[int]:
    reduction = reduce_tokens(
        features,
        "zoo_prune",
        signals={"projector_sensitivity": scores},
        **budget,  # type: ignore[arg-type]
    )
    return reduction.index[reduction.order].tolist()


def written_out(features: torch.Tensor, scores: torch.Tensor, count: int) -> list[int]:
    """The published steps in float64, one pick at a time."""
    order: list[int] = []
    for t, (x, s) in enumerate(zip(features.double().numpy(), scores.double().numpy(), strict=True)):
        unit = x.reshape(-1, x.shape[-1])
        unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
        scaled = (s.ravel() - s.min()) / (s.max() - s.min())
        picks = [int(scaled.argmax())]
        while len(picks) < count:
            score = scaled * (1 - (unit @ unit[picks].T).max(1))
            score[picks] = -1
            picks.append(int(score.argmax()))
        order += [pick + t * len(unit) for pick in picks]
    return order


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_steps_written_out(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, 6, 7, 8, generator=generator) + 0.3 * seed
    scores = 5 + torch.rand(3, 6, 7, generator=generator)
    assert order_of(features, scores, keep_ratio=0.4) == written_out(features, scores, 16)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_sensitivities_leave_farthest_points_from_the_first_token(value: float) -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 10, 40, 100, 170]))
    fan = torch.stack([angle.cos(), angle.sin()], -1)[None, None]
    assert order_of(fan, torch.full((1, 1, 5), value), keep_tokens=4) == [0, 4, 3, 2]


def test_the_least_sensitive_comes_last_however_different_it_is() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.3], [-1.0, 0.0]]).reshape(1, 2, 2, 2)
    assert order_of(features, torch.tensor([[[4.0, 3.0], [2.0, 1.0]]]), keep_tokens=3) == [0, 2, 1]


def test_of_copies_one_is_picked_before_anything_new() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]).reshape(1, 2, 2, 2)
    scores = torch.tensor([[[1.0, 0.99], [0.3, 0.1]]])
    assert order_of(features, scores, keep_tokens=2) == [0, 2]


def test_a_linear_projector_does_not_rank_and_a_bent_one_does() -> None:
    generator = torch.Generator().manual_seed(0)
    states, weight = torch.randn(12, 6, generator=generator), torch.randn(6, 9, generator=generator)
    linear = sensitivity(lambda rows: rows @ weight, states)
    torch.testing.assert_close(linear, linear[:1].expand(12), rtol=1e-3, atol=0)
    on_lines = (states @ weight).reshape(1, 3, 4, 9)
    assert order_of(on_lines, linear.reshape(1, 3, 4), keep_tokens=1) == [0]
    bent = sensitivity(lambda rows: torch.relu(rows) @ weight, states)
    assert bent.max() > 1.2 * bent.min()
    features = (torch.relu(states) @ weight).reshape(1, 3, 4, 9)
    assert order_of(features, bent.reshape(1, 3, 4), keep_tokens=1) == [int(bent.argmax())]
