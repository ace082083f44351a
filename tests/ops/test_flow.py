"""Cutting tokens layer by layer: the cut by hand, and the whole run against plain float64 numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops.flow import flow, flow_removals, flow_scores, flow_step

Floats = npt.NDArray[np.float64]


def reference(relevance: Floats, similarity: Floats, magnitude: Floats, target: int) -> list[list[list[int]]]:
    """Positions of each image after each layer, for (images, layers, tokens), one image at a time."""
    images, layers, tokens = relevance.shape
    alive = [list(range(tokens)) for _ in range(images)]
    total = np.zeros((images, tokens))
    history = []
    for layer in range(layers):
        left, wanted = layers - 1 - layer, []
        for image, here in enumerate(alive):
            attention = relevance[image, layer, here] / relevance[image, layer, here].sum()
            alike = similarity[image, layer, here] / similarity[image, layer, here].sum()
            score = (attention + alike) * magnitude[image, layer, here]
            total[image, here] = score if layer == 0 else (total[image, here] + score) / 2
            entropy = -(attention * np.log(attention)).sum() / math.log(len(here))
            wanted.append((len(here) - target) / math.sqrt(left) * (1 - entropy**2) if left else math.inf)
        if left % 2 == 0:
            stay = target if left == 0 else max(target, len(alive[0]) - round(max(wanted)))
            for image, here in enumerate(alive):
                best = sorted(here, key=lambda token: (-total[image, token], token))
                alive[image] = sorted(best[:stay])
        history.append([list(here) for here in alive])
    return history


@pytest.mark.parametrize(
    ("shape", "target", "sharpness"),
    [
        ((3, 7, 40), 6, 1.0),
        ((2, 6, 25), 5, 2.5),
        ((1, 9, 60), 1, 2.0),
        ((4, 1, 20), 3, 1.0),
        ((2, 5, 30), 29, 1.0),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], target: int, sharpness: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    given = [np.exp(sharpness * generator.standard_normal(shape)) for _ in range(3)]
    states = list(flow(*(torch.from_numpy(signal).float() for signal in given), target=target))
    expected = reference(given[0], given[1], given[2], target)
    assert [state.alive.tolist() for state in states] == expected
    assert states[-1].alive.shape == (shape[0], target)


def test_even_attention_cuts_nothing_before_the_last_layer_and_a_single_peak_the_most() -> None:
    even = torch.ones(1, 9, 30)
    assert [state.alive.shape[1] for state in flow(even, even, even, target=4)] == [30] * 8 + [4]
    peak = torch.eye(30)[:1]
    for layers_left in (1, 4, 9):
        removed = flow_removals(peak, target=6, layers_left=layers_left)
        torch.testing.assert_close(removed, torch.tensor([24 / math.sqrt(layers_left)]))
    assert flow_removals(torch.ones(2, 1), target=1, layers_left=3).tolist() == [0.0, 0.0]


def test_the_number_left_never_grows_nor_falls_below_the_target() -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.rand(2, 12, 50, generator=generator) ** 8
    left = [state.alive.shape[1] for state in flow(values, values, values, target=7)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 7
    assert len(set(left)) > 3


def test_images_of_a_batch_lose_what_the_surest_can_do_without() -> None:
    sure, unsure = torch.eye(20)[:1] + 1e-4, torch.ones(1, 20)
    ones = torch.ones(2, 20)
    kept, _ = flow_step(torch.cat([sure, unsure]), ones, ones, None, target=4, layers_left=2)
    alone, _ = flow_step(sure, ones[:1], ones[:1], None, target=4, layers_left=2)
    assert kept.shape[1] == alone.shape[1] < 20
    twice, _ = flow_step(sure.expand(2, -1), ones, ones, None, target=4, layers_left=2)
    assert twice.tolist() == [alone[0].tolist()] * 2


def test_scores_by_hand_and_zeros_counted_as_even() -> None:
    zeros, magnitude = torch.zeros(1, 4), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    alike = torch.tensor([[1.0, 0.0, 3.0, 0.0]])
    torch.testing.assert_close(flow_scores(zeros, alike, magnitude), torch.tensor([[0.5, 0.5, 3.0, 1.0]]))
    assert flow_removals(zeros, target=1, layers_left=1).tolist() == pytest.approx([0.0], abs=1e-6)


def test_who_is_at_the_target_stays_and_keeps_its_scores() -> None:
    before = torch.tensor([[3.0, 1.0]])
    ones = torch.ones(1, 2)
    kept, scores = flow_step(ones, ones, ones, before, target=2, layers_left=4)
    assert kept.tolist() == [[0, 1]]
    assert torch.equal(scores, before)


@pytest.mark.parametrize(("interval", "cut_at"), [(1, [0, 1, 2, 3]), (3, [0, 3]), (2, [1, 3])])
def test_cuts_are_counted_back_from_the_last_layer(interval: int, cut_at: list[int]) -> None:
    peaked: dict[str, Any] = {"target": 1, "interval": interval}
    relevance = torch.eye(40)[:1].expand(4, 40)[None] + 0.1
    ones = torch.ones(1, 4, 40)
    left = [40, *(state.alive.shape[1] for state in flow(relevance, ones, ones, **peaked))]
    assert [layer for layer in range(4) if left[layer + 1] < left[layer]] == cut_at
