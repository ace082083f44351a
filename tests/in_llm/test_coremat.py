"""CoreMatching's counts and elbow against numpy and by hand, and the neurons of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnsupportedModelError
from streamprune.in_llm.base import PartCall
from streamprune.in_llm.coremat import CoreMatching, above_elbow, most_active, most_common
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import Watched, locate, prompt, small_decoder
from tests.in_llm.views import Array, made_view, text_and

PART = (1, "mlp.down_proj")


def neurons(rows: int, seed: int, width: int = 40) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) - 0.3


def call(entered: torch.Tensor, visual: torch.Tensor) -> PartCall:
    return PartCall(*PART, entered, entered, visual)


def numpy_elbow(scores: Array) -> Array:
    """By distance from the chord, as geometry has it."""
    curve = np.sort(scores)[::-1].astype(float)
    chord = np.array([len(curve) - 1, curve[-1] - curve[0]])
    chord /= np.linalg.norm(chord)
    points = np.stack([np.arange(len(curve)), curve - curve[0]], 1)
    distance = np.abs(points[:, 0] * chord[1] - points[:, 1] * chord[0])
    above: Array = np.flatnonzero(scores > curve[np.argmax(distance.round(9))])
    return above


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("reference", [1, 5, 50])
def test_as_released_equals_numpy(seed: int, reference: int) -> None:
    view = made_view(tokens=30, after=8, seed=seed)
    entered = neurons(view.rows, seed)
    active = entered.numpy() > 0
    core = active[max(view.rows - reference, view.rows - 8)]
    scores = (active & core).sum(1)
    method = CoreMatching(reference=reference)
    seen = method.watch(call(entered, view.visual))
    assert seen.tolist() == scores.tolist()
    view = made_view(tokens=30, after=8, seed=seed, watched={PART: seen})
    own = scores[view.visual.numpy()]
    assert method.decide(view).kept.tolist() == text_and(view, numpy_elbow(own))
    best = np.argsort(-own, kind="stable")[:7]
    asked = CoreMatching(reference=reference, keep_tokens=7)
    assert asked.decide(view).kept.tolist() == text_and(view, best)


@pytest.mark.parametrize("seed", range(4))
def test_the_papers_form_equals_numpy(seed: int) -> None:
    view = made_view(tokens=10, before=2, after=6, seed=seed)
    entered = neurons(view.rows, seed, width=25)
    active = np.zeros((view.rows, 25), dtype=bool)
    for row, values in enumerate(entered.double().numpy()):
        count = int(np.ceil((values > 0).sum() * 0.4 - 1e-9))
        active[row, np.argsort(-values)[:count]] = True
    often = active[12:].sum(0)
    core = np.argsort(-often, kind="stable")[: int(np.ceil((often > 0).sum() * 0.5 - 1e-9))]
    method = CoreMatching(active_share=0.4, core_share=0.5)
    assert method.watch(call(entered, view.visual)).tolist() == active[:, core].sum(1).tolist()


def test_a_row_shares_all_its_neurons_with_itself() -> None:
    entered = neurons(12, 3)
    seen = CoreMatching(reference=1).watch(call(entered, torch.arange(3, 8)))
    assert int(seen[-1]) == int((entered[-1] > 0).sum())


def test_most_active_and_most_common_by_hand() -> None:
    activations = torch.tensor([[0.5, 3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, 0.0, 4.0, -1.0]])
    active = most_active(activations, 0.5)
    assert active.tolist() == [[False, True, False, True, False], [False, False, False, True, False]]
    assert most_common(active, 0.5).tolist() == [False, False, False, True, False]
    assert most_common(active, 1.0).tolist() == [False, True, False, True, False]
    assert not most_common(torch.zeros(3, 4, dtype=torch.bool), 1.0).any()


@pytest.mark.parametrize(
    ("scores", "stay"),
    [
        ([10, 9, 8, 2, 1, 0], [0, 1]),
        ([0, 9, 1, 10, 8, 2], [1, 3]),
        ([9, 9, 0, 0, 0], [0, 1]),
        # no elbow: neither in a constant nor in a straight line
        ([4, 4, 4], [0, 1, 2]),
        ([3, 2, 1], [0, 1, 2]),
        ([5, 1], [0, 1]),
        ([7], [0]),
    ],
)
def test_elbow_by_hand(scores: list[int], stay: list[int]) -> None:
    assert above_elbow(torch.tensor(scores)).tolist() == stay


def test_the_neurons_are_those_of_the_layer_below() -> None:
    model, ids = small_decoder(), prompt()
    found: list[torch.Tensor] = []
    mlp = model.model.layers[1].mlp
    handle = mlp.register_forward_hook(lambda module, args, out: found.append(args[0]))
    watched = Watched(method=CoreMatching(layer=2, keep_tokens=6))
    with attach(model, watched, locate), torch.no_grad():
        model(ids)
    handle.remove()
    with torch.no_grad():
        active = mlp.act_fn(mlp.gate_proj(found[0][0])) * mlp.up_proj(found[0][0]) > 0
    visual = (ids[0] == 1).nonzero()[:, 0].numpy()
    scores = (active & active[-5]).sum(1).numpy()[visual]
    best = np.argsort(-scores, kind="stable")
    assert scores[best[5]] > scores[best[-1]]
    ((layer, gone),) = watched.cuts_of_rows
    assert layer == 2
    assert gone.tolist() == sorted(visual[best[6:]].tolist())
    assert not any(module._forward_hooks for module in model.modules())


def test_without_a_budget_the_elbow_decides_inside_a_model() -> None:
    model, ids = small_decoder(), prompt()
    with attach(model, CoreMatching(layer=2), locate), torch.no_grad():
        cache = model(ids).past_key_values
    held = [layer.keys.shape[2] for layer in cache.layers]
    assert held[0] == held[1] == ids.shape[1]
    assert ids.shape[1] - 24 < held[2] == held[3] < ids.shape[1]


def test_layers_without_such_neurons_are_refused() -> None:
    model = small_decoder()
    plain = model.model.layers[1].mlp
    model.model.layers[1].mlp = torch.nn.Identity()
    try:
        with (
            pytest.raises(UnsupportedModelError, match="have no part"),
            attach(model, CoreMatching(layer=2), locate),
        ):
            pass
    finally:
        model.model.layers[1].mlp = plain


@pytest.mark.parametrize(
    "options",
    [
        {"layer": 0},
        {"reference": 0},
        {"active_share": 0.4},
        {"active_share": 0, "core_share": 0.5},
        {"active_share": 0.5, "core_share": 1.5},
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CoreMatching(**options)
