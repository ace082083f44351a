"""BTP's picks against loops in numpy, by hand, and its stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.btp import BTP, Mix, attended, spread_out
from streamprune.tokens import VideoGrid
from tests.in_llm.views import Array, made_view, numpy_attention, text_and

GRID = VideoGrid(2, 4, 5)


def numpy_attended(scores: Array, count: int, share: float, factor: float) -> list[int]:
    """Candidates by score; those ahead of place ``count`` are served first."""
    wanted = int(count * share)
    candidates = np.argsort(-scores)[: int(wanted * factor)]
    ahead = [int(token) for token in candidates if token < count][:wanted]
    behind = [int(token) for token in candidates if token >= count]
    return ahead + behind[: wanted - len(ahead)]


def numpy_unlike(states: Array, chosen: list[int], count: int) -> list[int]:
    """``count`` more, each the farthest from ``chosen`` and those before it."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    picks = list(chosen)
    while len(picks) < len(chosen) + count:
        nearest = distance[picks].min(0) if picks else distance.min(0)
        nearest[picks] = -np.inf
        picks.append(int(nearest.argmax()))
    return picks[len(chosen) :]


def numpy_spread(grid: VideoGrid, count: int) -> list[int]:
    """Farthest by rows and columns, each frame on its own."""
    places = np.array(np.unravel_index(np.arange(grid.tokens), (grid.frames, grid.rows, grid.cols))).T
    picks: list[int] = []
    while len(picks) < count:
        worth = []
        for token, (frame, row, col) in enumerate(places):
            others = [places[pick] for pick in picks if places[pick][0] == frame]
            own = min((abs(row - r) + abs(col - c) for _, r, c in others), default=np.inf)
            worth.append(-1 if token in picks else own)
        picks.append(int(np.argmax(worth)))
    return picks


@pytest.mark.parametrize("seed", range(4))
def test_the_first_stage_equals_numpy(seed: int) -> None:
    view = made_view(tokens=40, seed=seed, grid=GRID, depth=32, layer=3)
    scores = numpy_attention(view.before)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    states = view.states[view.visual].double().numpy()
    chosen = numpy_attended(scores, 20, 0.3, 3.7)
    for token in numpy_unlike(states, [], 6) + numpy_spread(GRID, 10):
        if token not in chosen and len(chosen) < 20:
            chosen.append(token)
    chosen += numpy_unlike(states, chosen, 20 - len(chosen))
    assert BTP().decide(view).kept.tolist() == text_and(view, np.array(chosen))


@pytest.mark.parametrize("seed", range(4))
def test_the_second_stage_equals_numpy(seed: int) -> None:
    view = made_view(tokens=30, seed=seed, depth=32, layer=6, cut=1, visual_at_first=60)
    scores = numpy_attention(view.before)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    states = view.states[view.visual].double().numpy()
    chosen = numpy_attended(scores, 15, 0.9, 1.5)
    chosen += [token for token in numpy_unlike(states, [], 1) if token not in chosen]
    chosen += numpy_unlike(states, chosen, 15 - len(chosen))
    assert BTP().decide(view).kept.tolist() == text_and(view, np.array(chosen))


@pytest.mark.parametrize("seed", range(4))
def test_the_third_stage_is_attention_alone(seed: int) -> None:
    view = made_view(tokens=27, seed=seed, depth=32, layer=14, cut=2, visual_at_first=108)
    scores = numpy_attention(view.before)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    expected = text_and(view, np.array(numpy_attended(scores, 9, 1.0, 1.2)))
    assert BTP().decide(view).kept.tolist() == expected


def test_then_no_visual_token_goes_on() -> None:
    view = made_view(tokens=9, depth=32, layer=22, cut=3, visual_at_first=108)
    assert BTP().decide(view).kept.tolist() == text_and(view, np.array([], dtype=int))


def test_candidates_ahead_are_served_first() -> None:
    scores = torch.tensor([0.4, 0, 0, 0, 0, 0.7, 0.9, 0.8])
    # of the four candidates 6, 7, 5, 0 the one among the first three, then the best of the others
    assert attended(scores, 3, Mix(1.0, 1.34)).tolist() == [0, 6, 7]
    assert attended(scores, 3, Mix(1.0, 1.0)).tolist() == [6, 7, 5]
    assert attended(scores, 8, Mix(0.25, 9.0)).tolist() == [6, 7]
    assert attended(scores, 3, Mix(0.3, 3.7)).tolist() == []


def test_places_apart_by_hand() -> None:
    frame, row, col = VideoGrid(1, 3, 3).places(torch.arange(9))
    # two opposite corners, a third; then the middle is as far from its nearest as the fourth
    assert spread_out(frame, row, col, 5).tolist() == [0, 8, 2, 4, 6]
    frame, row, col = VideoGrid(3, 1, 2).places(torch.arange(6))
    assert spread_out(frame, row, col, 9).tolist() == [0, 2, 4, 1, 3, 5]
    assert spread_out(frame, row, col, 0).tolist() == []


def test_without_a_grid_tokens_stand_in_a_line() -> None:
    lined = made_view(tokens=40, grid=VideoGrid(1, 1, 40), depth=32, seed=5)
    bare = made_view(tokens=40, depth=32, seed=5)
    square = made_view(tokens=40, grid=GRID, depth=32, seed=5)
    kept = [BTP().decide(view).kept.tolist() for view in (lined, bare, square)]
    assert kept[0] == kept[1] != kept[2]


def test_the_published_stages_are_about_129_tokens_a_layer() -> None:
    method = BTP()
    assert method.cuts(32) == (3, 6, 14, 22)
    counts = [method.count(cut, 32, 576) for cut in range(4)]
    assert counts == [288, 144, 48, 0]
    assert (3 * 576 + 3 * 288 + 8 * 144 + 8 * 48) / 32 == 129


def test_told_to_keep_some_the_last_stage_picks_by_attention() -> None:
    method = BTP(keep_ratio=1 / 16)
    assert [method.count(cut, 32, 256) for cut in range(4)] == [128, 64, 32, 16]
    view = made_view(tokens=32, depth=32, layer=22, cut=3, visual_at_first=256, seed=1)
    scores = numpy_attention(view.before)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    expected = text_and(view, np.array(numpy_attended(scores, 16, 1.0, 1.2)))
    assert method.decide(view).kept.tolist() == expected


def test_a_few_tokens_left_are_still_as_many_as_asked() -> None:
    for keep in range(1, 12):
        view = made_view(tokens=11, grid=VideoGrid(1, 1, 11), depth=32)
        kept = BTP(layers=(3,), keep_tokens=keep).decide(view).kept
        assert len(kept) == view.rows - 11 + keep


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (3,)}, "layers must be 4"),
        ({"shares": (0.5,)}, "shares must hold 4"),
        ({"keep_ratio": 0}, "must be"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BTP(**options)
