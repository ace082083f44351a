"""STC's cacher: what it decides, apart from any tower."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.encoder.stc import STCCacher, key_similarity, picture_change
from streamprune.registry import build_method, get_method


@pytest.mark.parametrize(
    ("tokens", "ratio", "count"),
    [(4, 0.25, 1), (3, 0.25, 1), (1, 0.25, 1), (729, 0.25, 182), (49, 1.0, 49), (10, 0.01, 1)],
)
def test_a_constant_share_is_recomputed_but_at_least_one(tokens: int, ratio: float, count: int) -> None:
    method = STCCacher(update_ratio=ratio)
    assert method.count(tokens) == count
    chosen = method.least_alike(torch.rand(tokens, generator=torch.Generator().manual_seed(tokens)))
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count


def test_the_least_alike_are_chosen_and_of_equals_the_lower() -> None:
    method = STCCacher(update_ratio=0.4)
    assert method.least_alike(torch.tensor([0.9, 0.1, 0.9, 0.5, 0.9])).tolist() == [1, 3]
    assert method.least_alike(torch.full((5,), 0.7)).tolist() == [0, 1]


def test_similarity_is_of_all_heads_together() -> None:
    keys = torch.tensor([[1.0, 0.0], [3.0, 3.0], [0.0, 0.0], [-2.0, 0.0]])
    reference = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    expected = torch.tensor([1.0, 0.5**0.5, 0.0, -1.0])
    torch.testing.assert_close(key_similarity(keys, reference), expected)
    halved = key_similarity(keys.bfloat16(), reference.bfloat16())
    assert halved.dtype == torch.float32
    torch.testing.assert_close(halved, expected)


def test_pictures_differ_by_the_root_of_the_mean_square() -> None:
    before = torch.zeros(2, 4)
    after = torch.tensor([[0.4, 0.0, 0.0, 0.0], [0.1, -0.1, 0.1, -0.1]])
    torch.testing.assert_close(picture_change(after, before), torch.tensor([0.2, 0.1]))
    assert torch.equal(before, torch.zeros(2, 4))


def test_references_come_when_the_last_is_too_old() -> None:
    assert [STCCacher().expired(age) for age in (None, 1, 2)] == [True, False, True]
    assert [STCCacher(interval=4).expired(age) for age in (1, 3, 4)] == [False, False, True]
    assert STCCacher(interval=1).expired(1)
    pixels = STCCacher(choose="pixels")
    assert pixels.max_age > 4
    assert not pixels.expired(pixels.max_age - 1)
    assert pixels.expired(pixels.max_age)


def test_guards_are_off_as_released() -> None:
    far = torch.full((5,), -1.0)
    assert not STCCacher().unlike(far)
    guarded = STCCacher(reference_similarity=0.5)
    assert guarded.unlike(far)
    assert guarded.unlike(torch.tensor([0.4, 0.5]))
    assert not guarded.unlike(torch.tensor([0.4, 0.6]))
    busy = STCCacher(choose="pixels", full_above=0.5)
    assert not busy.busy(torch.tensor([True, False]))
    assert busy.busy(torch.tensor([True, True, False]))
    assert not STCCacher(choose="pixels", full_above=1.0).busy(torch.tensor([True, True]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"update_ratio": 0.0}, r"update_ratio must be in \(0, 1\], got 0.0"),
        ({"update_ratio": "0.5"}, "update_ratio must be a number"),
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"interval": 2.5}, "interval must be an integer"),
        ({"choose": "key"}, "unknown choose of stc 'key'. Did you mean 'keys'"),
        ({"reference_similarity": 2}, r"reference_similarity must be in \[-1, 1\]"),
        ({"pixel_change": float("nan")}, r"pixel_change must be in \[0, 1\]"),
        ({"full_above": 1.5}, r"full_above must be in \[0, 1\]"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_method("encoder", "stc", options)


def test_class_and_registry_say_the_same() -> None:
    info = get_method("encoder", "stc")
    assert info.load() is STCCacher
    assert (info.needs, info.causal) == (STCCacher.needs, STCCacher.causal) == ((), True)
    assert f"Source: {info.source}" in (STCCacher.__doc__ or "")
    assert build_method("encoder", "stc", {}) == STCCacher()
