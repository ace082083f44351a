"""What is remembered of a reference frame, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from streamprune.cache.ledger import Ledger
from streamprune.cache.tower_cache import TowerCache, TowerRows
from streamprune.errors import MemoryBudgetError, SnapshotError
from streamprune.metrics.memory import tensor_bytes

ROWS = TowerRows(("keys", "values"), layers=3, tokens=5, width=4, picture=(5, 6))
LIKE = torch.empty(0)
BYTES = 4 * (2 * 3 * 5 * 4 + 5 * 6)


def filled(memory_bytes: int = 10_000) -> tuple[TowerCache, Ledger]:
    """A cache of ROWS with something in it."""
    ledger = Ledger(memory_bytes)
    cache = TowerCache(ledger)
    cache.allocate(ROWS, LIKE)
    for number, tensor in enumerate(cache.tensors()):
        tensor.copy_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(number)))
    cache.age = 3
    return cache, ledger


def test_every_byte_is_asked_for_and_given_back() -> None:
    cache, ledger = filled()
    assert ROWS.nbytes(torch.float32) == BYTES == cache.nbytes == ledger.held["tower"]
    assert tensor_bytes(cache.tensors()) == BYTES
    cache.clear()
    cache.clear()
    assert (cache.nbytes, ledger.total, ledger.peak) == (0, 0, BYTES)
    assert cache.age is None
    assert list(cache.tensors()) == []


def test_the_same_sizes_stay_in_place_and_others_replace_them() -> None:
    cache, ledger = filled(BYTES)
    held = [tensor.data_ptr() for tensor in cache.tensors()]
    cache.allocate(ROWS, LIKE)
    assert [tensor.data_ptr() for tensor in cache.tensors()] == held
    smaller = TowerRows(("keys",), layers=3, tokens=2, width=4)
    cache.allocate(smaller, LIKE)
    assert ledger.total == cache.nbytes == smaller.nbytes(torch.float32)
    cache.allocate(smaller, LIKE.bfloat16())
    assert ledger.total == smaller.nbytes(torch.bfloat16) == tensor_bytes(cache.tensors())


def test_what_does_not_fit_is_not_made() -> None:
    ledger = Ledger(BYTES - 1)
    cache = TowerCache(ledger)
    with pytest.raises(MemoryBudgetError, match=f"{BYTES} bytes more for 'tower'"):
        cache.allocate(ROWS, LIKE)
    assert (ledger.total, cache.nbytes, cache.shape) == (0, 0, None)


def test_a_layer_is_a_view_of_the_buffers() -> None:
    cache, _ = filled()
    keys, values = cache.layer(1)
    assert keys.shape == values.shape == (5, 4)
    keys.zero_()
    tensors, _ = cache.state()
    assert not tensors["keys"][1].any()
    assert tensors["keys"][0].all()


def test_what_was_saved_is_restored_bit_by_bit() -> None:
    cache, _ = filled()
    tensors, about = cache.state()
    other, ledger = filled()
    for tensor in other.tensors():
        tensor.zero_()
    other.restore(tensors, about, LIKE)
    again, about_again = other.state()
    assert about_again == about
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert ledger.total == BYTES
    again["keys"].zero_()
    assert tensors["keys"].all(), "copies"
    other.restore({}, {}, LIKE)
    assert (other.age, ledger.total) == (None, 0)
    assert other.state() == ({}, {})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors, about: about.pop("age"),
        lambda tensors, about: about.update(picture=[1]),
        lambda tensors, about: tensors.pop("values"),
        lambda tensors, about: tensors.update(values=torch.zeros(2, 2)),
        lambda tensors, about: tensors.update(picture=torch.zeros(5, 5)),
    ],
)
def test_a_damaged_state_is_refused(spoil: Callable[[dict[str, torch.Tensor], dict[str, Any]], Any]) -> None:
    cache, ledger = filled()
    tensors, about = cache.state()
    tensors, about = dict(tensors), dict(about)
    spoil(tensors, about)
    with pytest.raises(SnapshotError, match="of the vision tower"):
        cache.restore(tensors, about, LIKE)
    assert ledger.total == 0
