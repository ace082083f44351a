"""none, random and stride."""

from __future__ import annotations

import pytest
import torch

from streamprune.errors import UnknownNameError
from streamprune.pre_llm.random import RandomTokens
from streamprune.reduce import reduce_tokens

FEATURES = torch.randn(5, 4, 4, 6, generator=torch.Generator().manual_seed(3))


def test_none_ignores_the_budget() -> None:
    reduction = reduce_tokens(FEATURES, "none", keep_ratio=0.1)
    assert reduction.is_identity
    assert reduction.features.data_ptr() == FEATURES.data_ptr()


def test_random_is_seeded_and_even() -> None:
    drawn = [reduce_tokens(FEATURES, "random", keep_ratio=0.25, seed=seed).index for seed in range(200)]
    assert torch.equal(drawn[3], reduce_tokens(FEATURES, "random", keep_ratio=0.25, seed=3).index)
    assert not torch.equal(drawn[0], drawn[1])
    chosen = torch.bincount(torch.cat(drawn), minlength=80)
    assert int(chosen.min()) > 20, "every token is drawn about 50 times in 200"
    assert int(chosen.max()) < 85


def test_random_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    reduce_tokens(FEATURES, "random", keep_ratio=0.25)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("seed", [-1, 1.0, "a", True, None, 2**64])
def test_random_refuses_other_seeds(seed: object) -> None:
    with pytest.raises(ValueError, match="seed must be a non-negative integer"):
        RandomTokens(seed=seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keep_tokens", "index"),
    [(1, [40]), (2, [20, 60]), (5, [8, 24, 40, 56, 72]), (3, [13, 40, 66])],
)
def test_stride_is_even_and_centred(keep_tokens: int, index: list[int]) -> None:
    assert reduce_tokens(FEATURES, "stride", keep_tokens=keep_tokens).index.tolist() == index


def test_stride_steps_differ_by_at_most_one() -> None:
    for keep_tokens in range(2, 80):
        steps = reduce_tokens(FEATURES, "stride", keep_tokens=keep_tokens).index.diff()
        assert int(steps.max() - steps.min()) <= 1


def test_of_every_frame_as_many_stay() -> None:
    strided = reduce_tokens(FEATURES, "stride", keep_tokens=10, within="frame").index
    assert strided.tolist() == [16 * frame + place for frame in range(5) for place in (4, 12)]
    drawn = reduce_tokens(FEATURES, "random", keep_tokens=10, within="frame").index
    assert torch.bincount(drawn // 16).tolist() == [2] * 5
    places = [tuple((drawn[drawn // 16 == frame] % 16).tolist()) for frame in range(5)]
    assert len(set(places)) > 1, "each frame draws anew"


@pytest.mark.parametrize("name", ["random", "stride"])
def test_only_clip_and_frame_are_known(name: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown within of {name} 'frames'. Did you mean 'frame'?"):
        reduce_tokens(FEATURES, name, keep_tokens=10, within="frames")
