"""AIM's ranking against matrix powers written out in numpy, and its schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.in_llm.aim import AIMInner, importance
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import GRID, locate, prompt, small_decoder
from tests.in_llm.views import Array, MadeProjections, made_view, text_and


def numpy_importance(layer: MadeProjections, temperature: float = 0.1, steps: int = 5) -> Array:
    """The uniform row vector times the ``steps``-th power of every head's sharpened attention."""
    every = torch.arange(layer.all_keys.shape[1])
    queries, keys = layer.queries(every).double().numpy(), layer.keys().double().numpy()
    logits = queries @ np.repeat(keys, 2, axis=0).transpose(0, 2, 1) * layer.scaling / temperature
    logits[:, ~np.tri(len(every), dtype=bool)] = -np.inf
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    powers = np.linalg.matrix_power(weights / weights.sum(-1, keepdims=True), steps)
    scores: Array = np.sqrt((powers.mean(1) ** 2).mean(0))
    return scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"steps": 1}, {"keep_tokens": 3}])
def test_equals_numpy(seed: int, options: dict[str, float]) -> None:
    view = made_view(tokens=24, seed=seed, layer=18, depth=28)
    scale = {name: value for name, value in options.items() if name != "keep_tokens"}
    scores = numpy_importance(view.before, **scale)[view.visual.numpy()]  # type: ignore[arg-type]
    # half of the way from 24 to nothing, or to 3 of 24
    count = 13 if "keep_tokens" in options else 12
    decision = AIMInner(**options).decide(view)  # type: ignore[arg-type]
    assert decision.kept.tolist() == text_and(view, np.argsort(-scores)[:count])


def test_uniform_causal_attention_drains_to_the_first_row() -> None:
    nothing = torch.zeros(1, 4, 2)
    ranks = importance(nothing, nothing, 1.0, torch.arange(4), steps=5)
    assert ranks.tolist() == pytest.approx([0.9575, 0.0394, 0.0030, 0.0001], abs=1e-3)
    assert float(ranks.sum()) == pytest.approx(1)


def test_rows_that_nobody_sees_hand_on_what_they_had() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 6, 4, generator=generator), torch.randn(1, 6, 4, generator=generator)
    kept = torch.tensor([0, 2, 3, 5])
    ranks = importance(queries, keys[:, kept], 0.5, kept, steps=3)
    logits = (queries @ keys.transpose(1, 2) * 0.5).double()
    logits[:, :, [1, 4]] = -torch.inf
    logits[:, ~torch.ones(6, 6).tril().bool()] = -torch.inf
    powers = torch.linalg.matrix_power(torch.softmax(logits, -1), 3)
    expected = powers.mean(1).square().mean(0).sqrt()[kept]
    torch.testing.assert_close(ranks.double(), expected, atol=1e-6, rtol=0)


def test_the_released_schedule() -> None:
    method = AIMInner()
    assert method.cuts(28) == tuple(range(15, 23))
    assert [method.count(layer, 28, 800) for layer in method.cuts(28)] == [*range(700, -1, -100)]
    assert AIMInner(layers=(13, 21)).cuts(32) == tuple(range(14, 22))
    assert method.cuts(4) == (3,)
    assert method.cuts(3) == (2,)


@pytest.mark.parametrize("budget", [{"keep_ratio": 0.1}, {"keep_tokens": 20}])
def test_a_budget_is_what_goes_on_in_the_end(budget: dict[str, float]) -> None:
    method = AIMInner(layers=(2, 6), **budget)  # type: ignore[arg-type]
    assert [method.count(layer, 8, 200) for layer in method.cuts(8)] == [155, 110, 65, 20]
    assert AIMInner(layers=(2, 6), keep_tokens=1).count(6, 8, 200) == 1


def test_without_a_budget_only_text_is_left() -> None:
    model, ids = small_decoder(), prompt()
    with attach(model, AIMInner(), locate), torch.no_grad():
        cache = model(ids).past_key_values
        words = model.generate(ids, max_new_tokens=3, do_sample=False)
    held = [layer.keys.shape[2] for layer in cache.layers]
    assert held == [ids.shape[1]] * 3 + [ids.shape[1] - GRID.tokens]
    assert words.shape[1] == ids.shape[1] + 3


def test_what_cannot_be_meant() -> None:
    for options in (
        {"layers": (3,)},
        {"layers": (5, 3)},
        {"temperature": 0},
        {"temperature": -1.0},
        {"steps": 0},
    ):
        with pytest.raises(ValueError, match="must be"):
            AIMInner(**options)
    with pytest.raises(ValueError, match="cannot act"):
        AIMInner(layers=(14, 22)).checked_cuts(8)
