"""CATP's second stage against the same written out in numpy, on one video and on several images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import PromptView
from streamprune.in_llm.catp import CATPInner
from tests.in_llm.views import Array, made_view, numpy_attention, text_and

# three images: rows 3-7, 10-15 and 18-25, with text around them
IMAGES = torch.tensor([*range(3, 8), *range(10, 16), *range(18, 26)])


def numpy_scores(view: PromptView, own: Array, query: Array, weight: float) -> Array:
    """Rise of the last row's attention, and cosine with the mean of the query."""
    at, before = (numpy_attention(layer)[:, -1, own].mean(0) for layer in (view.at, view.before))  # type: ignore[arg-type]
    states = view.states.double().numpy()
    mean = states[query].mean(0)
    cosine = states[own] @ mean / np.linalg.norm(states[own], axis=1) / np.linalg.norm(mean)
    scores: Array = np.maximum(at - before, 0) + weight * cosine
    return scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weight", [0.0, 0.6, 5.0])
def test_equals_numpy(seed: int, weight: float) -> None:
    view = made_view(tokens=22, after=5, seed=seed)
    visual = view.visual.numpy()
    scores = numpy_scores(view, visual, np.arange(view.rows - 5, view.rows), weight)
    method = CATPInner(query_weight=weight)
    np.testing.assert_allclose(method.scores(view, view.visual, view.after).numpy(), scores, atol=1e-6)
    # with the weight at 0, many fall and tie: then the first of them go on
    order = np.argsort(-scores, kind="stable")
    assert method.decide(view).kept.tolist() == text_and(view, order[:8])


def test_attention_that_rises_nowhere_leaves_the_query_to_decide() -> None:
    view = made_view(tokens=15, seed=2)
    same = replace(view, at=view.before)
    states = view.states.double().numpy()
    mean = states[view.visual[-1] + 1 :].mean(0)
    own = states[view.visual]
    cosine = own @ mean / np.linalg.norm(own, axis=1)
    assert CATPInner(keep_tokens=4).decide(same).kept.tolist() == text_and(view, np.argsort(-cosine)[:4])


@pytest.mark.parametrize("seed", range(4))
def test_the_image_asked_about_goes_by_what_is_kept_of_the_others(seed: int) -> None:
    view = made_view(tokens=21, before=3, after=4, seed=seed, visual=IMAGES, visual_at_first=19)
    visual, context = IMAGES.numpy(), 11
    method = CATPInner(query_image=True, keep_tokens=9)
    scores = numpy_scores(view, visual[:context], np.arange(16, 28), 0.6)
    first = np.argsort(-scores)[: 9 * 11 // 19]
    decision = method.decide(view)
    assert decision.kept.tolist() == text_and(view, np.concatenate([first, np.arange(11, 19)]))
    after = made_view(
        tokens=21 - 6, before=3, after=4, seed=seed + 50, cut=1, visual_at_first=19, carried=decision.carried
    )
    after = replace(after, visual=torch.isin(decision.kept, IMAGES).nonzero()[:, 0])
    own = after.visual.numpy()
    states = after.states.double().numpy()
    mean = states[own[:5]].mean(0)
    cosine = states[own[5:]] @ mean / np.linalg.norm(states[own[5:]], axis=1)
    second = np.argsort(-cosine)[:4] + 5
    expected = text_and(after, np.concatenate([np.arange(5), second]))
    assert method.decide(after).kept.tolist() == expected


def test_one_image_is_not_the_one_asked_about() -> None:
    view = made_view(tokens=22, seed=1)
    plain, asked = CATPInner(), CATPInner(query_image=True)
    decision = asked.decide(view)
    assert decision.kept.tolist() == plain.decide(view).kept.tolist()
    later = made_view(tokens=8, cut=1, carried=decision.carried)
    assert len(asked.decide(later).kept) == later.rows


@pytest.mark.parametrize(("visual", "left"), [(11, 4), (350, 127), (1, 1)])
def test_two_ninths_of_all_are_four_elevenths_of_what_stage_one_leaves(visual: int, left: int) -> None:
    view = made_view(tokens=visual)
    assert len(CATPInner().decide(view).kept) == view.rows - visual + left


@pytest.mark.parametrize(("depth", "cuts"), [(32, (6, 7)), (28, (5, 6)), (4, (1, 2))])
def test_the_layer_is_scaled(depth: int, cuts: tuple[int, ...]) -> None:
    assert CATPInner(query_image=True).checked_cuts(depth) == cuts
    assert CATPInner().checked_cuts(depth) == cuts[:1]


@pytest.mark.parametrize(
    "options", [{"layer": 0}, {"query_weight": -1}, {"query_image": 1}, {"keep_ratio": 0}]
)
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CATPInner(**options)
