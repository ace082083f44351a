"""AdaptInfer against the same written out in numpy, by hand, and its stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.errors import UnknownNameError
from streamprune.in_llm.adaptinfer import AdaptInfer, Words, word_weights
from tests.in_llm.views import Array, made_view, numpy_attention, text_and


def numpy_scores(attention: Array, visual: Array, text: Array, words: str) -> Array:
    """Summed head by head and row by row."""
    scores = np.zeros(len(visual))
    for head in attention:
        among = head[np.ix_(text, text)]
        for place, row in enumerate(text):
            weight = among[:, place].sum()
            if words == "both":
                weight += sum(among[place, other] for other in range(len(text)) if other != place)
            scores += (1.0 if words == "even" else weight) * head[row, visual]
    return scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("words", ["both", "received", "even"])
def test_equals_numpy(seed: int, words: Words) -> None:
    view = made_view(tokens=30, after=6, seed=seed)
    visual, text = view.visual.numpy(), np.arange(view.rows - 6, view.rows)
    attention = numpy_attention(view.before)  # type: ignore[arg-type]
    scores = numpy_scores(attention, visual, text, words)
    method = AdaptInfer(layers=(2,), keep_tokens=8, words=words)
    np.testing.assert_allclose(method.scores(view).numpy(), scores, atol=1e-6)
    assert method.decide(view).kept.tolist() == text_and(view, np.argsort(-scores)[:8])


def test_a_row_counts_itself_once() -> None:
    attention = torch.tensor([[[0.5, 0.0], [0.2, 0.3]]])
    assert word_weights(attention, "both").tolist() == [[pytest.approx(0.7), pytest.approx(0.5)]]
    assert word_weights(attention, "received").tolist() == [[pytest.approx(0.7), pytest.approx(0.3)]]


def test_with_one_word_the_weight_is_of_no_matter() -> None:
    view = made_view(tokens=20, after=1)
    # one weight a head, and all heads alike
    layer: Any = view.before
    layer.all_queries[:], layer.all_keys[:] = layer.all_queries[:1], layer.all_keys[:1]
    kept = [
        AdaptInfer(layers=(1,), keep_tokens=5, words=words).decide(view).kept.tolist()
        for words in ("both", "received", "even")
    ]
    assert kept[0] == kept[1] == kept[2]


def test_the_words_matter() -> None:
    view = made_view(tokens=40, after=8, seed=3)
    kept = [
        AdaptInfer(layers=(1,), keep_tokens=5, words=words).decide(view).kept.tolist()
        for words in ("both", "even")
    ]
    assert kept[0] != kept[1]


def test_the_published_stages() -> None:
    method = AdaptInfer()
    assert method.cuts(32) == (2, 11, 21)
    counts = [method.count(cut, 32, 576) for cut in range(3)]
    assert counts == [133, 27, 3]


def test_a_budget_is_what_is_left_at_last() -> None:
    method = AdaptInfer(keep_ratio=0.125)
    assert [method.count(cut, 32, 512) for cut in range(3)] == [256, 128, 64]
    assert [AdaptInfer(keep_tokens=7).count(cut, 32, 100) for cut in range(3)][-1] == 7


@pytest.mark.parametrize(("depth", "cuts", "counts"), [(4, (1, 2), [27, 3]), (8, (1, 2, 5), [133, 27, 3])])
def test_stages_that_fall_on_one_layer_are_the_last_of_them(
    depth: int, cuts: tuple[int, ...], counts: list[int]
) -> None:
    method = AdaptInfer()
    assert method.checked_cuts(depth) == cuts
    assert [method.count(cut, depth, 576) for cut in range(len(cuts))] == counts


def test_shares_of_its_own() -> None:
    method = AdaptInfer(layers=(1, 2), shares=[0.5, 0.0])  # type: ignore[arg-type]
    assert [method.count(cut, 4, 9) for cut in range(2)] == [4, 0]
    view = made_view(tokens=9, depth=4, cut=1)
    assert method.decide(view).kept.tolist() == text_and(view, np.array([], dtype=int))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": (1, 2)}, ValueError, "layers must be 3 where none"),
        ({"layers": (2, 1, 3)}, ValueError, "layers must be ascending"),
        ({"shares": (0.5,)}, ValueError, "shares must hold 3 numbers"),
        ({"shares": (0.1, 0.2, 0.3)}, ValueError, "shares must not rise"),
        ({"shares": (0.5, 0.2, -0.1)}, ValueError, r"shares must be in \[0, 1\]"),
        ({"shares": 0.5}, TypeError, "shares must be a list"),
        ({"shares": (0.5, 0.2, 0.1), "keep_ratio": 0.1}, ValueError, "give one"),
        ({"words": "all"}, UnknownNameError, "words"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AdaptInfer(**options)
