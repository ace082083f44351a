from __future__ import annotations

import pytest
import torch

from streamprune.encoder.layer_attention import LayerAttention
from streamprune.encoder.zero_tprune import ZeroTPrune, drop_look_alikes, importance
from tests.encoder import references
from tests.encoder.towers import SHAPE, NumpyTower, pixels, run

EVERY_HEAD = (0.0, 1.0)


def attention_of(rows: torch.Tensor) -> LayerAttention:
    """The attention whose map is ``rows`` (frames, heads, tokens, tokens)."""
    tokens = rows.shape[-1]
    return LayerAttention(rows.log(), torch.eye(tokens).expand_as(rows), 1.0)


def test_votes_on_doubly_stochastic_attention_stay_even() -> None:
    rows = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]])[None, None]
    torch.testing.assert_close(importance(attention_of(rows), 7, EVERY_HEAD), torch.full((1, 3), 1 / 3))


def test_votes_on_equal_rows_become_that_row() -> None:
    row = torch.tensor([0.6, 0.1, 0.3])
    for rounds in (1, 4):
        found = importance(attention_of(row.expand(1, 1, 3, 3)), rounds, EVERY_HEAD)
        torch.testing.assert_close(found[0], row)


def test_heads_that_see_everything_or_one_token_alone_are_left_out() -> None:
    even = torch.full((3, 3), 1 / 3)
    row = torch.tensor([0.6, 0.1, 0.3]).expand(3, 3)
    sink = torch.tensor([1e-9, 1.0, 1e-9]).expand(3, 3)
    rows = torch.stack([even, row, sink])[None]
    found = importance(attention_of(rows), 3, (1e-4, 0.7))
    torch.testing.assert_close(found[0], row[0], rtol=1e-4, atol=1e-5)
    both = importance(attention_of(rows[:, [0, 2]]), 3, (1e-4, 0.7))[0]
    torch.testing.assert_close(both, torch.tensor([1, (1 + 9) ** 0.5, 1]) / (18**0.5), rtol=1e-4, atol=1e-5)


def test_look_alikes_of_the_more_important_half_go() -> None:
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.3], [-1.0, 0.1], [0.01, 1.0]]])
    ranking = torch.tensor([[0, 1, 2, 3, 4]])
    assert drop_look_alikes(ranking, keys, 1)[0].sort().values.tolist() == [0, 1, 2, 3]
    assert drop_look_alikes(ranking, keys, 2)[0].sort().values.tolist() == [0, 1, 3]
    assert drop_look_alikes(ranking, keys, 0) is ranking


def test_counts() -> None:
    assert ZeroTPrune(layer_keep_share=0.5).counts(SHAPE) == (36, 18, 9, 4)
    assert ZeroTPrune(layer_keep_share=0.01, similar_share=1.0).counts(SHAPE) == (36, 1, 1, 1)
    assert run(ZeroTPrune(layer_keep_share=0.01, similar_share=1.0), pixels(2)).tokens == (72, 72, 2, 2)


@pytest.mark.parametrize(("share", "similar", "rounds"), [(0.8, 0.5, 5), (0.6, 1.0, 1), (0.5, 0.0, 3)])
def test_a_whole_run_equals_loops_in_double_precision(share: float, similar: float, rounds: int) -> None:
    given = pixels(3, drift=1.0)
    method = ZeroTPrune(layer_keep_share=share, similar_share=similar, iterations=rounds)
    for frame, states in zip(given, run(method, given).states[0], strict=True):
        expected = references.zero_tprune(NumpyTower(), frame, share, similar, rounds, [1, 2, 3])
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_keep_share": 0}, "layer_keep_share must be in"),
        ({"similar_share": 2}, "similar_share must be in"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"head_variance": 0.5}, "head_variance must be two numbers"),
        ({"head_variance": (0.1, 3)}, "head_variance must be in"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZeroTPrune(**options)  # type: ignore[arg-type]
