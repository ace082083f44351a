"""ToDRE's second stage: both shares against numpy, and what goes on where they are small or large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import PromptView
from streamprune.in_llm.todre import ToDREInner, mean_attention
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import GRID, locate, prompt, small_decoder
from tests.in_llm.views import Array, MadeProjections, made_view, numpy_attention, text_and

# text between two halves of the visual tokens
SPLIT = torch.tensor([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])


def shares(view: PromptView) -> tuple[float, float, Array]:
    """Text to visual, visual to text, and what each visual token gets of the text."""
    attention = numpy_attention(view.before).mean(0)  # type: ignore[arg-type]
    visual = view.visual.numpy()
    text = np.setdiff1d(np.arange(visual[0], view.rows), visual)
    to_visual, to_text = attention[np.ix_(text, visual)], attention[np.ix_(visual, text)]
    total = attention[text].sum()
    return to_visual.sum() / total, to_text.sum() / attention[visual].sum(), to_visual.sum(0)


def goes(view: PromptView, threshold: float) -> bool:
    kept = ToDREInner(threshold=threshold).decide(view).kept.tolist()
    assert kept in ([*range(view.rows)], text_and(view, np.array([], dtype=int)))
    return len(kept) < view.rows


@pytest.mark.parametrize("seed", range(4))
def test_text_that_looks_at_the_video_keeps_all_of_it(seed: int) -> None:
    view = made_view(tokens=24, seed=seed)
    to_visual, to_text, _ = shares(view)
    assert to_text == 0
    assert not goes(view, to_visual - 1e-4)
    assert goes(view, to_visual + 1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_both_shares_count_where_text_stands_in_between(seed: int) -> None:
    view = made_view(tokens=10, before=3, after=7, seed=seed, visual=SPLIT)
    larger = max(shares(view)[:2])
    assert not goes(view, larger - 1e-4)
    assert goes(view, larger + 1e-4)


def test_a_video_that_looks_at_the_text_keeps_everything() -> None:
    view = made_view(tokens=10, before=3, after=7, visual=SPLIT)
    layer: Any = view.before
    # every row looks at the first row of text behind the first half, as far as it sees it
    layer.all_queries[:] = 1.0
    layer.all_keys[:] = 0.0
    layer.angles[:] = 0.0
    layer.all_keys[:, 8] = 5.0
    to_visual, to_text, _ = shares(view)
    assert to_visual < 0.1 < 0.4 < to_text
    assert not goes(view, 0.3)
    assert goes(view, 0.6)


def test_nothing_is_below_zero_and_everything_below_one() -> None:
    view = made_view(tokens=12)
    assert not goes(view, 0.0)
    assert goes(view, 1.0)
    layer: Any = view.before
    # text is so much nearer that the attention of anything else is 0 in numbers
    layer.angles[:] = 0
    layer.all_queries[:], layer.all_keys[:] = 1, 100
    layer.all_keys[:, view.visual] = -100
    assert float(mean_attention(layer, view.after)[view.visual].sum()) == 0
    assert not goes(view, 0.0)
    assert goes(view, 0.01)


@pytest.mark.parametrize("budget", [{"keep_tokens": 5}, {"keep_ratio": 0.23}])
def test_a_budget_is_what_the_text_looks_at_most(budget: dict[str, float]) -> None:
    view = made_view(tokens=24, seed=1)
    expected = text_and(view, np.argsort(-shares(view)[2])[:5])
    method = ToDREInner(threshold=1.0, **budget)  # type: ignore[arg-type]
    assert method.decide(view).kept.tolist() == expected


def test_many_rows_are_read_in_parts() -> None:
    layer = MadeProjections(600, seed=5)
    rows = torch.arange(20, 600)
    expected = numpy_attention(layer)[:, 20:].mean((0, 1))
    np.testing.assert_allclose(mean_attention(layer, rows).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("depth", "cut"), [(32, 28), (28, 24), (4, 3)])
def test_the_layer_is_scaled(depth: int, cut: int) -> None:
    assert ToDREInner().checked_cuts(depth) == (cut,)


@pytest.mark.parametrize(("threshold", "visual"), [(0.0, GRID.tokens), (1.0, 0)])
def test_all_or_nothing_inside_a_model(threshold: float, visual: int) -> None:
    model, ids = small_decoder(), prompt()
    with torch.no_grad():
        stock = model(ids).logits
        with attach(model, ToDREInner(threshold=threshold), locate):
            out = model(ids)
    held = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    assert held == [ids.shape[1]] * 3 + [ids.shape[1] - GRID.tokens + visual]
    assert torch.equal(out.logits, stock) == (threshold == 0.0)


@pytest.mark.parametrize("options", [{"threshold": 1.1}, {"threshold": -0.1}, {"layer": 0}])
def test_options_that_cannot_be_meant(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ToDREInner(**options)  # type: ignore[arg-type]
