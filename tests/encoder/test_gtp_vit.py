from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.encoder.base import LayerInput, LayerReduction, LayerSignals, TowerShape
from streamprune.encoder.gtp_vit import GTPViT, normalised, semantic_links, spatial_links
from tests.encoder import references
from tests.encoder.towers import SHAPE, NumpyTower, pixels, run

SQUARE = TowerShape(2, 2, 2)


def decide(score: list[float], graph: torch.Tensor, **options: Any) -> LayerReduction:
    """One layer over 2 x 2 patches whose states are the unit vectors; ``score`` orders them."""
    queries = torch.ones(1, 1, 4, 1)
    keys = torch.tensor(score).reshape(1, 1, 4, 1)
    signals = LayerSignals(queries=queries, keys=keys)
    at = LayerInput(SQUARE, 0, torch.eye(4)[None], None, torch.arange(4)[None], signals, graph)
    return GTPViT(removed=1, **options).reduce_layer(at)


def test_patches_that_touch_are_linked() -> None:
    links = spatial_links(3, 4, torch.device("cpu"))
    assert links.sum(1).tolist() == [3, 5, 5, 3, 5, 8, 8, 5, 3, 5, 5, 3]
    assert torch.equal(links, links.T)
    assert links[0].nonzero().flatten().tolist() == [1, 4, 5]


def test_of_four_patches_each_link_weighs_a_third() -> None:
    graph = normalised(spatial_links(2, 2, torch.device("cpu")))
    torch.testing.assert_close(graph, (1 - torch.eye(4)) / 3)
    assert torch.equal(normalised(torch.zeros(1, 3, 3)), torch.zeros(1, 3, 3)), "alone: nothing to divide by"


def test_the_most_similar_patches_are_linked() -> None:
    states = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    expected = [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert semantic_links(states, 1)[0].tolist() == expected
    assert semantic_links(states, 99)[0].tolist() == (1 - torch.eye(4)).tolist()
    assert semantic_links(torch.ones(1, 1, 2), 3).tolist() == [[[0]]]


def test_a_dropped_token_is_added_to_its_neighbours() -> None:
    graph = (1 - torch.eye(4))[None] / 3
    decision = decide([3.0, 1.0, 2.0, 4.0], graph, propagation=0.6)
    assert decision.step is not None
    assert decision.size is not None
    assert decision.step.index.tolist() == [[0, 2, 3]], "the second is attended least"
    left = decision.step.apply(torch.eye(4)[None])[0]
    torch.testing.assert_close(left[:, 1], torch.full((3,), 0.2))
    torch.testing.assert_close(left[:, [0, 2, 3]], torch.eye(3))
    torch.testing.assert_close(decision.size, torch.full((1, 3), 1.2))
    assert torch.equal(decision.carried, graph[:, [0, 2, 3]][..., [0, 2, 3]])


def test_without_propagation_or_neighbours_it_is_pruning() -> None:
    graph = (1 - torch.eye(4))[None] / 3
    for decision in (
        decide([3.0, 1.0, 2.0, 4.0], graph, propagation=0.0),
        decide([3.0, 1.0, 2.0, 4.0], torch.zeros(1, 4, 4), propagation=0.6),
    ):
        assert decision.step is not None
        assert torch.equal(decision.step.apply(torch.eye(4)[None])[0], torch.eye(4)[[0, 2, 3]])
        assert decision.size is not None
        assert decision.size.tolist() == [[1, 1, 1]]


def test_every_layer_takes_the_same_number() -> None:
    assert GTPViT(removed=4).counts(SHAPE) == (32, 28, 24, 20)
    assert GTPViT(removed=20).counts(SHAPE) == (16, 1, 1, 1)
    counts = GTPViT().counts(TowerShape(12, 14, 14))
    assert counts is not None
    assert counts[-1] == 196 - 8 * 12


@pytest.mark.parametrize(("removed", "alpha"), [(4, 0.1), (8, 0.5)])
def test_a_whole_run_equals_loops_in_double_precision(removed: int, alpha: float) -> None:
    given = pixels(3, drift=1.0)
    out = run(GTPViT(removed=removed, propagation=alpha, num_neighbors=5), given).states[0]
    for frame, states in zip(given, out, strict=True):
        expected = references.gtp_vit(NumpyTower(), frame, removed, alpha, 5)
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"removed": -1}, "removed must be at least 0"),
        ({"propagation": -0.1}, "propagation must be in"),
        ({"num_neighbors": 0}, "num_neighbors must be at least 1"),
        ({"graph": "grid"}, "unknown graph of gtp_vit 'grid'"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GTPViT(**options)  # type: ignore[arg-type]
