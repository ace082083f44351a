"""Signals that are computed when somebody first asks for them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import pytest
import torch

from streamprune.errors import SignalError
from streamprune.models.signals import Signals


class Tower:
    """Counts how often it is run."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, ...]] = []

    def __call__(self, names: Sequence[str]) -> tuple[Mapping[str, torch.Tensor], float]:
        self.runs.append(tuple(names))
        return {name: torch.full((2,), float(len(name))) for name in names}, 10.0 * len(self.runs)


def check(names: Sequence[str]) -> None:
    for name in names:
        if name == "colour":
            raise SignalError("cannot give the signal 'colour'")


def make(tower: Tower | None) -> Signals:
    return Signals({"saliency": torch.zeros(2)}, tower, check)


def test_what_was_computed_is_given_without_running_anything() -> None:
    tower = Tower()
    signals = make(tower)
    assert signals["saliency"].tolist() == [0, 0]
    assert "saliency" in signals
    assert "keys" not in signals
    assert (list(signals), len(signals), tower.runs) == (["saliency"], 1, [])


def test_a_missing_one_is_computed_once() -> None:
    tower = Tower()
    signals = make(tower)
    assert signals["keys"] is signals["keys"]
    assert tower.runs == [("keys",)]
    assert sorted(signals) == ["keys", "saliency"]


def test_those_prepared_together_take_one_run_and_share_its_time() -> None:
    tower = Tower()
    signals = make(tower)
    signals.prepare(["saliency", "keys", "early"])
    signals.prepare(["early", "late"])
    assert tower.runs == [("keys", "early"), ("late",)]
    assert signals.late_ms(["saliency"]) == 0
    assert signals.late_ms(["keys", "early"]) == 10
    assert signals.late_ms(["keys", "late"]) == 30


def test_what_cannot_be_given_is_refused_before_the_run() -> None:
    tower = Tower()
    with pytest.raises(SignalError, match="cannot give the signal 'colour'"):
        make(tower).prepare(["keys", "colour"])
    assert tower.runs == []


def test_without_a_way_to_compute_it_the_error_says_how_to_get_it() -> None:
    with pytest.raises(SignalError, match=r"signals=\('keys', 'early'\), or without signals="):
        make(None).prepare(["keys", "early"])
    with pytest.raises(SignalError, match="cannot give the signal 'colour'"):
        make(None)["colour"]


def test_threads_that_want_the_same_wait_for_one_run() -> None:
    started, go_on = threading.Event(), threading.Event()

    class Slow(Tower):
        def __call__(self, names: Sequence[str]) -> tuple[Mapping[str, torch.Tensor], float]:
            started.set()
            assert go_on.wait(10)
            return super().__call__(names)

    tower = Slow()
    signals = make(tower)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(signals["keys"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go_on.set()
    for thread in threads:
        thread.join()
    assert tower.runs == [("keys",)]
    assert all(one is found[0] for one in found)
    assert len(found) == 3
