"""LVLM_CSP's representatives by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.errors import SignalError
from streamprune.pre_llm.lvlm_csp import LVLMCSP
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction


def run(frames: int, rows: int, cols: int, **options: Any) -> Reduction:
    return reduce_tokens(torch.ones(frames, rows, cols, 3), "lvlm_csp", **options)


@pytest.mark.parametrize(
    ("tokens", "kept", "expected"),
    [
        (10, 3, [0, 3, 6]),
        (10, 5, [0, 2, 4, 6, 8]),
        (10, 6, [0, 1, 2, 3, 4, 5]),
        (9, 1, [0]),
        (11, 4, [0, 2, 4, 6]),
    ],
)
def test_every_nth_token_from_the_first(tokens: int, kept: int, expected: list[int]) -> None:
    assert run(1, 1, tokens, keep_tokens=kept).index.tolist() == expected
    both = run(2, tokens, 1, keep_tokens=2 * kept)
    assert both.index.tolist() == [*expected, *(place + tokens for place in expected)]


def test_as_many_representatives_as_tokens_change_nothing() -> None:
    for representatives in ("uniform", "random", "saliency"):
        assert run(2, 2, 5, keep_tokens=20, representatives=representatives).is_identity


def test_the_most_salient_of_each_frame() -> None:
    saliency = torch.tensor([[[0.1, 0.9, 0.5], [0.5, 0.2, 0.8]], [[9.0, 1.0, 1.0], [1.0, 1.0, 5.0]]])
    reduction = run(2, 2, 3, keep_tokens=6, representatives="saliency", signals={"saliency": saliency})
    assert reduction.index.tolist() == [1, 2, 5, 6, 7, 11]
    assert LVLMCSP(representatives="saliency").needs == ("saliency",)
    with pytest.raises(SignalError, match="'saliency'"):
        run(2, 2, 3, keep_tokens=6, representatives="saliency")


def test_drawn_representatives_follow_the_seed_and_differ_between_frames() -> None:
    options: dict[str, Any] = {"keep_ratio": 0.25, "representatives": "random"}
    drawn = [run(3, 8, 8, seed=seed, **options).index for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    places = (drawn[0].reshape(3, 16) % 64).tolist()
    assert places[0] != places[1]
    assert [place // 64 for place in drawn[0].tolist()] == [0] * 16 + [1] * 16 + [2] * 16


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"representatives": "instances"}, ValueError, "representatives"),
        ({"representatives": "random", "seed": -1}, ValueError, "seed"),
        ({"representatives": "random", "seed": 2**64}, ValueError, "seed"),
        ({"representatives": "random", "seed": 1.5}, TypeError, "seed"),
        ({"seed": 3}, ValueError, "seed belongs to"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        LVLMCSP(**options)
