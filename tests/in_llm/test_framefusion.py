"""FrameFusion against chains followed one token at a time, and its account of what may stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.in_llm.base import Decision, PromptView
from streamprune.in_llm.framefusion import FrameFusion, alike_before
from streamprune.reduction import weighted_sum
from streamprune.tokens import VideoGrid
from tests.in_llm.views import made_view

GRID = VideoGrid(4, 2, 3)


def drifting(seed: int = 0, drift: float = 0.4, **fields: Any) -> PromptView:
    """Every place of the grid is a walk through time, so that some neighbours are alike."""
    view = made_view(grid=GRID, seed=seed, depth=28, layer=0, **fields)
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(GRID.frames, 6, 16, generator=generator) * drift
    steps[0] /= drift
    view.states[view.visual] = steps.cumsum(0).flatten(0, 1)
    return view


def followed(view: PromptView, threshold: float) -> tuple[dict[int, list[int]], int]:
    """Members of each token that goes on by its number, when all alike ones join; and how many do."""
    groups: dict[int, list[int]] = {}
    joined = 0
    for place in range(6):
        leader = place
        for frame in range(GRID.frames):
            number = frame * 6 + place
            states = view.states[view.visual]
            alike = frame > 0 and torch.cosine_similarity(states[number], states[number - 6], 0) >= threshold
            if alike:
                joined += 1
                groups[leader].append(number)
            else:
                leader = number
                groups[leader] = [number]
    return groups, joined


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_runs_of_alike_tokens_become_their_mean(seed: int, threshold: float) -> None:
    view = drifting(seed)
    groups, joined = followed(view, threshold)
    assert 0 < joined < 20
    decision = FrameFusion(similarity=threshold, least_merged=0.1, cost=0.1).decide(view)
    assert not decision.done
    first = int(view.visual[0])
    visual_kept = [row - first for row in decision.kept.tolist() if row in view.visual.tolist()]
    assert visual_kept == sorted(groups)
    assert decision.entries is not None
    values = weighted_sum(decision.entries, view.states, len(decision.kept))
    for row, value in zip(decision.kept.tolist(), values, strict=True):
        members = [first + member for member in groups.get(row - first, [row - first])]
        torch.testing.assert_close(value, view.states[members].mean(0))
    assert decision.carried.merged == (joined / 24,)


def test_of_more_alike_tokens_than_have_to_go_the_most_alike_join() -> None:
    view = drifting(drift=0.1)
    decision = FrameFusion(keep_tokens=19).decide(view)
    cosines = alike_before(view)[1]
    gone = cosines.argsort(descending=True)[:5]
    assert decision.done
    expected = sorted(set(range(view.rows)) - set(view.visual[gone].tolist()))
    assert decision.kept.tolist() == expected


@pytest.mark.parametrize(("merged", "share"), [((), 0.7), ((0.5,), 0.4148), ((0.5, 0.2), 0.2788)])
def test_the_longer_merging_went_on_the_less_may_stay(merged: tuple[float, ...], share: float) -> None:
    assert FrameFusion().to_go(drifting(), merged) == pytest.approx(share * 24, abs=2e-3)


def test_a_cost_that_is_used_up_leaves_one_token() -> None:
    method = FrameFusion(cost=0.05, similarity=1.0)
    view = drifting()
    merged = method.decide(view).carried
    assert method.to_go(view, (0.1, 0.1)) == 24
    spent = drifting(carried=type(merged)((0.1, 0.1), False))
    assert len(method.decide(spent).kept) == spent.rows - 23


def test_nothing_is_alike_without_one_video() -> None:
    view = made_view(depth=28, layer=0)
    decision = FrameFusion(similarity=-1).decide(view)
    assert len(decision.kept) == view.rows
    assert not decision.carried.merging
    last = FrameFusion().decide(made_view(depth=28, layer=1, carried=decision.carried))
    scores = view.before.attention(view.last)[:, -1, view.visual].mean(0)
    assert last.done
    assert last.kept.tolist() == view.kept_with_text(scores.argsort(descending=True)[:7]).tolist()


def test_places_that_went_before_are_skipped() -> None:
    view = drifting()
    left = torch.tensor([0, 1, 7, 12, 18, 19])
    sparse = made_view(tokens=6, grid=GRID, places=left, depth=28, layer=0)
    sparse.states[sparse.visual] = view.states[view.visual[left]]
    chain, cosines = alike_before(sparse)
    assert left[chain].tolist() == [0, 12, 18, 1, 7, 19]
    assert (cosines < -1).tolist() == [True, True, False, False, False, False]
    expected = torch.cosine_similarity(view.states[view.visual[0]], view.states[view.visual[12]], 0)
    assert float(cosines[3]) == pytest.approx(float(expected), abs=1e-6)


def test_a_budget_is_met_before_the_last_layer_at_the_latest() -> None:
    view = drifting(drift=0.3)
    method = FrameFusion(keep_tokens=2, least_merged=0)
    first = method.decide(view)
    assert not first.done
    last = drifting(drift=0.3, carried=first.carried)
    decision = method.decide(made_view(layer=27, depth=28, cut=27, carried=last.carried, visual_at_first=24))
    assert decision.done
    assert len(decision.kept) == view.rows - 22


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cost": 0}, r"cost must be in \(0, 1\]"),
        ({"cost": 0.3, "keep_ratio": 0.5}, "leave out cost or the budget"),
        ({"similarity": 2}, r"similarity must be in \[-1, 1\]"),
        ({"least_merged": -1}, r"least_merged must be in \[0, 1\]"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FrameFusion(**options)


def test_a_full_cost_keeps_everything() -> None:
    assert FrameFusion(cost=1).keeps_everything(24)
    assert not FrameFusion().keeps_everything(24)
    assert isinstance(FrameFusion(cost=1.0).decide(drifting()), Decision)
