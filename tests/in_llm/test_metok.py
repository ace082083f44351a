"""METok's stages inside the language model against loops in numpy, and its counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.base import PromptView
from streamprune.in_llm.metok import Events, METokInner
from streamprune.tokens import VideoGrid
from tests.in_llm.views import Array, made_view, numpy_attention, text_and

GRID = VideoGrid(7, 2, 3)


def numpy_scores(view: PromptView) -> Array:
    """What the rows behind the video give to each visual token."""
    visual = view.visual.numpy()
    attention = numpy_attention(view.before)[:, visual[-1] + 1 :, visual]  # type: ignore[arg-type]
    scores: Array = attention.mean((0, 1))
    return scores


def numpy_events(view: PromptView, scores: Array, cuts: int, keys: int) -> tuple[list[int], set[int]]:
    """Event of each frame, and the key events."""
    frames = view.embeds[view.visual].double().numpy().reshape(GRID.frames, 6, -1).mean(1)
    unit = frames / np.linalg.norm(frames, axis=1, keepdims=True)
    weakest = np.argsort((unit[:-1] * unit[1:]).sum(1))[:cuts]
    event = [int((weakest < frame).sum()) for frame in range(GRID.frames)]
    looked_at = scores.reshape(GRID.frames, 6).mean(1)
    best = [max(looked_at[f] for f in range(GRID.frames) if event[f] == e) for e in range(cuts + 1)]
    return event, set(np.argsort(best)[::-1][:keys].tolist())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("cuts", "keys", "ratio"), [(4, 3, 0.76), (2, 1, 0.4)])
def test_the_first_two_stages_equal_numpy(seed: int, cuts: int, keys: int, ratio: float) -> None:
    method = METokInner(num_cuts=cuts, num_key_events=keys, event_ratio=ratio)
    view = made_view(tokens=42, grid=GRID, seed=seed, depth=28, layer=3)
    scores = numpy_scores(view)
    event, key = numpy_events(view, scores, cuts, keys)
    chosen: list[int] = []
    for number in range(cuts + 1):
        own = np.array([token for token in range(42) if event[token // 6] == number])
        count = math.ceil(ratio * len(own) / (1 if number in key else 2))
        chosen += own[np.argsort(-scores[own])][:count].tolist()
    decision = method.decide(view)
    assert decision.kept.tolist() == text_and(view, np.array(chosen))
    chosen.sort()
    later = made_view(tokens=len(chosen), seed=seed + 90, depth=28, cut=1, visual_at_first=42)
    later = replace(later, carried=decision.carried)
    scores, left = numpy_scores(later), []
    for number in key:
        own = np.array([place for place, token in enumerate(chosen) if event[token // 6] == number])
        left += own[np.argsort(-scores[own])][: math.ceil(ratio * len(own))].tolist()
    decision = method.decide(later)
    assert decision.kept.tolist() == text_and(later, np.array(left))
    last = made_view(tokens=len(left), depth=28, cut=2, carried=decision.carried)
    assert method.decide(last).kept.tolist() == text_and(last, np.array([], dtype=int))


def test_published_counts() -> None:
    events = Events(torch.tensor([0] * 10 + [1] * 10 + [2]), torch.tensor([True, False, False]))
    scores = torch.rand(21, generator=torch.Generator().manual_seed(0))
    method = METokInner()
    first = method.published_choice(scores, events, 0)
    assert [int(first[part].sum()) for part in (slice(10), slice(10, 20), slice(20, 21))] == [8, 4, 1]
    second = method.published_choice(scores, events, 1)
    assert [int(second[part].sum()) for part in (slice(10), slice(10, 21))] == [8, 0]
    assert not method.published_choice(scores, events, 2).any()


def test_a_budget_is_what_is_left_at_last_and_never_undercut() -> None:
    method = METokInner(keep_tokens=40)
    view = made_view(tokens=42, grid=GRID, seed=1, depth=28)
    kept = []
    for cut in range(3):
        decision = method.decide(replace(view, cut=cut))
        kept.append(len(decision.kept) - view.rows + 42)
    assert kept == [40, 40, 40]
    few = METokInner(keep_tokens=5)
    scores = numpy_scores(view)
    last = few.decide(replace(view, cut=2)).kept.tolist()
    assert last == text_and(view, np.argsort(-scores)[:5])
    # 5 are fewer than the first stage leaves by itself
    assert len(few.decide(view).kept) == len(METokInner().decide(view).kept) > 20


def test_without_one_video_everything_is_a_key_event() -> None:
    view = made_view(tokens=25, depth=28)
    kept = METokInner().decide(view).kept
    assert kept.tolist() == text_and(view, np.argsort(-numpy_scores(view))[:19])


def test_frames_of_which_nothing_is_left_are_passed_over() -> None:
    places = torch.tensor([0, 1, 2, 12, 13, 14, 30, 31, 40])
    view = made_view(tokens=9, depth=28, grid=GRID, places=places)
    events = METokInner(num_cuts=9).events(view, torch.ones(9))
    assert events.event.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("depth", "cuts", "stages"),
    [(28, (3, 10, 19), [0, 1, 2]), (4, (1, 2), [1, 2]), (8, (1, 2, 5), [0, 1, 2])],
)
def test_the_layers_are_scaled(depth: int, cuts: tuple[int, ...], stages: list[int]) -> None:
    method = METokInner()
    assert method.checked_cuts(depth) == cuts
    assert [method.stage(cut, depth) for cut in range(len(cuts))] == stages


@pytest.mark.parametrize(
    "options",
    [{"layers": (1, 2)}, {"event_ratio": 0}, {"num_cuts": -1}, {"num_key_events": 0}, {"keep_tokens": 0}],
)
def test_options_that_cannot_be_meant(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        METokInner(**options)
