"""VLA-Pruner against the same written out in numpy, its memory, and a loop of prompts through a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.in_llm.vla_pruner import PastAttention, VLAPruner, smoothed
from streamprune.models.attach import attach
from tests.in_llm.small_decoder import GRID, LAYERS, locate, padded, prompt, small_decoder
from tests.in_llm.views import Array, made_view, numpy_attention, text_and


def numpy_farthest(values: Array, count: int) -> list[int]:
    """The most isolated one first, then always the one farthest from the picks."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    picks = [int(distance.min(0).argmax())]
    while len(picks) < count:
        nearest = distance[picks].min(0)
        nearest[picks] = -np.inf
        picks.append(int(nearest.argmax()))
    return picks


def remembered(maps: list[torch.Tensor], prompt_number: int = 0) -> PastAttention:
    history = PastAttention()
    for one in maps:
        history.note(prompt_number, one)
    return history


def made_maps(tokens: int, count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(tokens, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", ["last", "all"])
def test_equals_numpy(seed: int, rows: Any) -> None:
    view = made_view(tokens=30, seed=seed)
    visual = view.visual.numpy()
    maps = made_maps(30, 4, seed)
    attention = numpy_attention(view.before).mean(0)  # type: ignore[arg-type]
    now = attention[-1, visual] if rows == "last" else attention[:, visual].mean(0)
    weights = np.array([0.64, 0.8, 1.0]) / 2.44
    past = sum(w * one.double().numpy() for w, one in zip(weights, maps[1:], strict=True))
    either = sorted({*np.argsort(-now)[:9].tolist(), *np.argsort(-past)[:9].tolist()})
    assert len(either) > 9
    embeds = view.embeds[view.visual[either]].double().numpy()
    expected = np.array(either)[numpy_farthest(embeds, 9)]
    method = VLAPruner(keep_tokens=9, rows=rows, history=remembered(maps))
    decision = method.decide(view)
    assert decision.kept.tolist() == text_and(view, expected)
    assert decision.carried.tolist() == sorted(expected.tolist())


def test_the_newest_step_counts_most() -> None:
    maps = list(torch.eye(3))
    assert smoothed(maps, 0.8).tolist() == pytest.approx([0.64 / 2.44, 0.8 / 2.44, 1 / 2.44])
    assert smoothed(maps, 0.0).tolist() == [0, 0, 1]


def test_maps_that_agree_need_no_diversity() -> None:
    view = made_view(tokens=20, seed=1)
    now = VLAPruner().scores(view)
    kept = VLAPruner(keep_tokens=6, history=remembered([now, now, now])).decide(view).kept
    assert kept.tolist() == text_and(view, np.argsort(-now.numpy())[:6])


def test_nothing_is_dropped_before_the_window_is_full() -> None:
    view = made_view(tokens=20)
    for count, left in ((0, 20), (2, 20), (3, 10), (5, 10)):
        method = VLAPruner(history=remembered(made_maps(20, count, 0)))
        assert len(method.decide(view).kept) == view.rows - 20 + left
    other = VLAPruner(history=remembered([*made_maps(21, 1, 0), *made_maps(20, 2, 0)]))
    assert len(other.decide(view).kept) == view.rows
    assert len(VLAPruner(window=0).decide(view).kept) == view.rows - 10


@pytest.mark.parametrize(("tokens", "left"), [(256, 128), (5, 2), (7, 4)])
def test_half_a_token_goes_to_the_even_number(tokens: int, left: int) -> None:
    view = made_view(tokens=tokens)
    assert len(VLAPruner(window=0).decide(view).kept) == view.rows - tokens + left


def test_what_was_dropped_is_remembered_as_not_looked_at() -> None:
    history = PastAttention()
    method = VLAPruner(history=history)
    carried = torch.tensor([0, 3, 5])
    view = made_view(tokens=3, cut=1, visual_at_first=8, carried=carried, prompt=2)
    decision = method.decide(view)
    assert len(decision.kept) == view.rows
    (whole,) = history.latest(2, 9, 8)
    seen = numpy_attention(view.at)[:, -1, view.visual.numpy()].mean(0)  # type: ignore[arg-type]
    expected = np.zeros(8)
    expected[[0, 3, 5]] = seen
    np.testing.assert_allclose(whole.numpy(), expected, atol=1e-6)
    assert history.latest(0, 9, 8) == []


def test_no_more_is_remembered_than_was_asked_for() -> None:
    history = PastAttention(longest=2)
    for number in range(5):
        history.note(0, torch.full((4,), float(number)))
    assert [int(one[0]) for one in history.latest(0, 9, 4)] == [3, 4]
    assert [int(one[0]) for one in history.latest(0, 1, 4)] == [4]
    assert history.latest(0, 0, 4) == []
    history.clear()
    assert history.latest(0, 9, 4) == []


def held(model: Any, **given: Any) -> list[int]:
    """Visual tokens in each layer's cache."""
    with torch.no_grad():
        cache = model(**given).past_key_values
    ids = given["input_ids"]
    return [layer.keys.shape[2] - ids.shape[1] + GRID.tokens for layer in cache.layers]


def test_a_loop_of_prompts_starts_to_drop_when_the_window_is_full() -> None:
    model, method = small_decoder(), VLAPruner(keep_tokens=6, window=2)
    assert method.cuts(LAYERS) == (1, 2)
    with attach(model, method, locate):
        steps = [held(model, input_ids=prompt(seed=seed)) for seed in range(4)]
        method.history.clear()
        anew = held(model, input_ids=prompt())
    assert steps == [[24] * 4] * 2 + [[24, 6, 6, 6]] * 2
    assert anew == [24] * 4


def test_prompts_of_a_batch_have_a_past_each() -> None:
    model = small_decoder()
    together, apart = VLAPruner(keep_tokens=6, window=2), [VLAPruner(keep_tokens=6, window=2) for _ in "ab"]
    pairs = [(prompt(seed=seed), prompt(before=2, after=4, seed=seed + 9)) for seed in range(3)]
    with attach(model, together, locate):
        for pair in pairs:
            batch = model.generate(**padded(*pair), max_new_tokens=3, do_sample=False)
    for number, method in enumerate(apart):
        with attach(model, method, locate):
            for pair in pairs:
                alone = model.generate(pair[number], max_new_tokens=3, do_sample=False)
        assert torch.equal(alone[0, -3:], batch[number, -3:])
        theirs = together.history.latest(number, 9, GRID.tokens)
        for one, other in zip(method.history.latest(0, 9, GRID.tokens), theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("depth", "cuts"), [(32, (3, 15)), (28, (2, 13)), (4, (1, 2)), (3, (1, 2))])
def test_the_layers_are_scaled(depth: int, cuts: tuple[int, ...]) -> None:
    assert VLAPruner().checked_cuts(depth) == cuts
    assert VLAPruner(window=0).checked_cuts(depth) == cuts[:1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": 0}, "layer must be"),
        ({"window": -1}, "window must be"),
        ({"decay": 1.1}, "decay must be"),
        ({"rows": "first"}, "unknown rows"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLAPruner(**options)


def test_a_history_that_is_none() -> None:
    with pytest.raises(TypeError, match="history must be a PastAttention"):
        VLAPruner(history=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="history_layer must be above the layer 3"):
        VLAPruner(layer=3, history_layer=3).cuts(8)
