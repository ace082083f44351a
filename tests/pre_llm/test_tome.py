"""ToMe as a pre-LLM merger, against a float64 reference and by hand."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.tome import ToMe
from streamprune.reduce import reduce_tokens, run_reducer
from streamprune.tokens import VideoGrid, VisualTokens
from tests.contract.table import clip
from tests.pre_llm.matching_reference import rounds_reference


@pytest.mark.parametrize(
    ("shape", "options", "counts"),
    [
        ((3, 6, 6), {"keep_ratio": 0.1}, [18, 9, 4, 2]),
        ((2, 5, 7), {"keep_ratio": 0.6}, [14]),
        ((4, 5, 5), {"keep_ratio": 0.4, "rounds": 4}, [4, 4, 4, 3]),
        ((3, 1, 7), {"keep_tokens": 3}, [3, 2, 1]),
    ],
)
def test_against_the_reference(
    shape: tuple[int, int, int], options: dict[str, Any], counts: list[int]
) -> None:
    features, per_frame = clip(*shape), shape[1] * shape[2]
    reduction = reduce_tokens(features, "tome", **options)
    emitted = reduction.features[reduction.order].reshape(shape[0], -1, features.shape[-1])
    row_of_slot = reduction.order.reshape(shape[0], -1)
    for frame in range(shape[0]):
        slots, values = rounds_reference(features[frame].reshape(per_frame, -1).double().numpy(), counts)
        np.testing.assert_allclose(emitted[frame], values, atol=1e-5)
        for slot, expected in enumerate(slots):
            members = (reduction.source == row_of_slot[frame, slot]).nonzero()[:, 0] - frame * per_frame
            assert set(members.tolist()) == expected


def test_pairs_by_hand_and_earlier_sizes_weigh() -> None:
    pairs = torch.tensor([[1.0, 0], [3, 0], [0, 1], [0, 3]])
    tokens = VisualTokens(pairs, VideoGrid(1, 2, 2))
    method = ToMe(budget=Budget(keep_tokens=2))
    reduction = run_reducer(method, tokens)
    assert reduction.features.tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert reduction.index.tolist() == [1, 3]
    assert reduction.size.tolist() == [2.0, 2.0]
    sized = VisualTokens(pairs, VideoGrid(1, 2, 2), size=torch.tensor([3.0, 1, 1, 1]))
    weighted = run_reducer(method, sized)
    assert weighted.features.tolist() == [[1.5, 0.0], [0.0, 2.0]]
    assert weighted.size.tolist() == [4.0, 2.0]


def test_sums_are_preserved() -> None:
    features = clip(4, 7, 7)
    reduction = reduce_tokens(features, "tome", keep_ratio=0.15)
    total = (reduction.features * reduction.size[:, None]).sum(0)
    torch.testing.assert_close(total, features.reshape(-1, features.shape[-1]).sum(0))
    assert float(reduction.size.sum()) == 4 * 49


def test_keys_decide_where_they_are_asked_for() -> None:
    features, keys = clip(2, 4, 4), clip(2, 4, 4, 6, scene=1)
    by_keys = reduce_tokens(features, "tome", keep_ratio=0.5, metric="keys", signals={"keys": keys})
    expected = reduce_tokens(keys, "tome", keep_ratio=0.5)
    assert torch.equal(by_keys.source, expected.source)
    assert not torch.equal(by_keys.source, reduce_tokens(features, "tome", keep_ratio=0.5).source)
    with pytest.raises(ValueError, match="signal 'keys'"):
        reduce_tokens(features, "tome", keep_ratio=0.5, metric="keys")


def test_what_it_needs_depends_on_the_metric() -> None:
    assert ToMe().needs == ToMe.needs == ()
    assert ToMe(metric="keys").needs == ("keys",)


def test_defaults() -> None:
    assert asdict(ToMe()) == {"budget": asdict(Budget()), "rounds": None, "metric": "features"}


@pytest.mark.parametrize(
    ("options", "error"),
    [({"rounds": 0}, ValueError), ({"rounds": 2.0}, TypeError), ({"metric": "values"}, ValueError)],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        ToMe(**options)
