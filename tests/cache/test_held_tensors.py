"""Tensors that are replaced again and again, in memory that the ledger counts once."""

from __future__ import annotations

import pytest
import torch

from streamprune.cache.held_tensors import HeldTensors
from streamprune.cache.ledger import Ledger
from streamprune.errors import MemoryBudgetError


def counted(held: HeldTensors) -> int:
    return sum(buffer.untyped_storage().nbytes() for buffer in held.buffers.values())


def test_the_same_memory_is_filled_anew() -> None:
    ledger = Ledger(100)
    held = HeldTensors(ledger, "frames")
    held.keep({"a": torch.arange(5.0), "n": torch.tensor(3)})
    places = {name: buffer.data_ptr() for name, buffer in held.buffers.items()}
    new = torch.arange(10.0)[::2]
    held.keep({"a": new, "n": torch.tensor(4)})
    assert torch.equal(held.values["a"], new)
    assert int(held.values["n"]) == 4
    assert places == {name: buffer.data_ptr() for name, buffer in held.buffers.items()}
    assert ledger.held["frames"] == ledger.peak == counted(held) == 5 * 4 + 8


def test_what_is_not_named_is_not_held_and_its_memory_stays() -> None:
    ledger = Ledger(100)
    held = HeldTensors(ledger, "tower")
    held.keep({"a": torch.zeros(5), "b": torch.zeros(5)})
    held.keep({"b": torch.ones(5)})
    assert held.values.keys() == {"b"}
    held.forget()
    assert held.values == {}
    assert ledger.held["tower"] == counted(held) == 40
    held.release()
    assert (ledger.total, held.buffers) == (0, {})


def test_another_shape_gets_other_memory() -> None:
    ledger = Ledger(100)
    held = HeldTensors(ledger, "frames")
    for value in (torch.zeros(5), torch.zeros(7), torch.zeros(7, dtype=torch.float64)):
        held.keep({"a": value})
        assert held.values["a"].dtype == value.dtype
        assert ledger.total == counted(held) == value.nbytes


def test_without_room_nothing_is_held() -> None:
    ledger = Ledger(40)
    held = HeldTensors(ledger, "frames")
    held.keep({"a": torch.zeros(5)})
    with pytest.raises(MemoryBudgetError):
        held.keep({"a": torch.zeros(11)})
    assert held.values == {}
    assert ledger.total == counted(held)
    held.keep({"a": torch.zeros(10)})
    assert ledger.total == 40


def test_what_is_held_may_be_kept_again() -> None:
    held = HeldTensors(None, "frames")
    held.keep({"a": torch.arange(3.0)})
    held.keep({**held.values, "b": torch.ones(2)})
    assert held.values["a"].tolist() == [0, 1, 2]
