"""ToDRE's first stage: the pivot, picks worked out by hand, and what is one set."""

from __future__ import annotations

import pytest
import torch

from streamprune.pre_llm.todre import ToDRE
from streamprune.reduce import reduce_tokens


def order_of(features: torch.Tensor, saliency: torch.Tensor, **options: object) -> list[int]:
    reduction = reduce_tokens(features, "todre", signals={"saliency": saliency}, **options)  # type: ignore[arg-type]
    return reduction.index[reduction.order].tolist()


@pytest.mark.parametrize("token_set", ["clip", "frame"])
def test_angles_worked_out_by_hand(token_set: str) -> None:
    angle = torch.deg2rad(torch.tensor([0.0, 10, 40, 100, 170]))
    fan = torch.stack([angle.cos(), angle.sin()], -1)[None, None]
    saliency = torch.tensor([0.9, 0.2, 0.9, 0.1, 0.3])[None, None]
    order = [0, 4, 1, 3, 2]
    for count in range(1, 5):
        assert order_of(fan, saliency, keep_tokens=count, token_set=token_set) == order[:count]
    farthest = reduce_tokens(fan, "divprune", keep_tokens=3)
    assert 1 not in farthest.index, "max-min would not take the neighbour of the pivot"


def test_the_pivot_is_the_most_salient_of_the_clip_or_of_each_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    features, saliency = (
        torch.randn(3, 4, 5, 9, generator=generator),
        torch.rand(3, 4, 5, generator=generator),
    )
    assert order_of(features, saliency, keep_tokens=1) == [int(saliency.flatten().argmax())]
    firsts = order_of(features, saliency, keep_tokens=3, token_set="frame")
    assert firsts == (saliency.flatten(1).argmax(1) + 20 * torch.arange(3)).tolist()


def test_after_each_pick_sums_are_lowest_where_the_next_is() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, 4, 5, 9, generator=generator)
    order = order_of(features, torch.rand(2, 4, 5, generator=generator), keep_tokens=25)
    unit = torch.nn.functional.normalize(features.reshape(40, 9).double(), dim=1)
    for count in range(1, 25):
        total = unit @ unit[order[:count]].sum(0)
        total[order[:count]] = float("inf")
        assert order[count] == int(total.argmin())


def test_frames_as_sets_are_frames_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    features, saliency = (
        torch.randn(3, 4, 5, 9, generator=generator),
        torch.rand(3, 4, 5, generator=generator),
    )
    apart = order_of(features, saliency, keep_ratio=0.3, token_set="frame")
    alone = [order_of(features[t : t + 1], saliency[t : t + 1], keep_ratio=0.3) for t in range(3)]
    assert apart == [token + 20 * t for t, picks in enumerate(alone) for token in picks]
    assert apart != order_of(features, saliency, keep_ratio=0.3)


def test_options() -> None:
    with pytest.raises(ValueError, match="unknown token_set of todre 'video'"):
        ToDRE(token_set="video")  # type: ignore[arg-type]
