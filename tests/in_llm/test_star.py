"""STAR's second stage against the same written out in numpy, and on states where the answer is plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.in_llm.star import STARInner, relevance
from tests.in_llm.views import Array, made_view, text_and


def numpy_scores(visual: Array, text: Array) -> Array:
    """Mean over text rows of a softmax over visual rows."""
    weights = np.exp(text @ visual.T / visual.shape[1] ** 0.5)
    scores: Array = (weights / weights.sum(1, keepdims=True)).mean(0)
    return scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [{}, {"keep_ratio": 0.3}, {"keep_tokens": 7}])
def test_equals_numpy(seed: int, budget: dict[str, float]) -> None:
    view = made_view(tokens=25, seed=seed)
    states, visual = view.states.double().numpy(), view.visual.numpy()
    scores = numpy_scores(states[visual], states[visual[-1] + 1 :])
    count = 12 if not budget else 7
    expected = text_and(view, np.argsort(-scores)[:count])
    assert STARInner(**budget).decide(view).kept.tolist() == expected  # type: ignore[arg-type]
    received = relevance(view.states[visual], view.states[visual[-1] + 1 :]).exp().numpy() / 4
    np.testing.assert_allclose(received, scores, atol=1e-7)


def test_a_token_like_the_question_comes_first() -> None:
    visual = torch.eye(6)
    assert int(relevance(visual, visual[3:4]).argmax()) == 3


def test_what_tokens_give_would_rank_nothing() -> None:
    view = made_view(tokens=20)
    visual, text = view.states[view.visual], view.states[view.after]
    given = torch.softmax(visual @ text.T / 4, -1).mean(-1)
    torch.testing.assert_close(given, torch.full((20,), 1 / len(text)))
    assert relevance(visual, text).std() > 0.1


def test_long_states_are_still_told_apart() -> None:
    visual = torch.arange(1.0, 9.0)[:, None] * 1000 * torch.ones(8, 4)
    scores = relevance(visual, torch.ones(2, 4))
    assert bool((scores[1:] > scores[:-1]).all())
    assert bool(scores.isfinite().all())


def test_half_precision_decides_as_its_float32_copy() -> None:
    view = made_view(tokens=24, seed=2)
    half = made_view(tokens=24, seed=2, states=view.states.bfloat16())
    widened = made_view(tokens=24, seed=2, states=view.states.bfloat16().float())
    assert torch.equal(STARInner().decide(half).kept, STARInner().decide(widened).kept)


@pytest.mark.parametrize(("depth", "cut"), [(32, 16), (28, 14), (2, 1)])
def test_the_middle_of_the_model(depth: int, cut: int) -> None:
    assert STARInner().checked_cuts(depth) == (cut,)


@pytest.mark.parametrize("options", [{"layer": 0}, {"keep_ratio": 0}, {"keep_tokens": 0}])
def test_options_that_cannot_be_meant(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        STARInner(**options)  # type: ignore[arg-type]
