"""Timing in units: the arithmetic, never how long anything takes."""

from __future__ import annotations

import pytest
import torch

from streamprune.metrics import made_clip, units


def test_medians_of_interleaved_runs_over_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    # (wall, cpu) of copy and call in turn; one outlier each
    seconds = iter([(2.0, 1.0), (8.0, 3.0), (2.0, 1.0), (10.0, 2.0), (90.0, 80.0), (9.0, 2.0)])
    tensor = torch.zeros(3)

    def timed(fn: object) -> tuple[float, float]:
        order.append("copy" if getattr(fn, "__self__", None) is tensor else "call")
        return next(seconds)

    monkeypatch.setattr(units, "timed", timed)
    timing = units.time_in_units(lambda: None, tensor, repeats=3)
    assert order == ["copy", "call"] * 3
    assert timing == units.UnitTiming(4.5, 2.0, 9000.0, 2000.0)


def test_one_thread_meanwhile_and_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []
    try:
        assert units.units(lambda: seen.append(torch.get_num_threads()), torch.zeros(1000), repeats=2) > 0
        assert seen == [1, 1, 1], "one call to warm up and two measured"
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        units.units(lambda: 1 // 0, torch.zeros(1))
    assert torch.get_num_threads() == before


def test_made_clips_have_the_asked_scenes() -> None:
    features, signals = made_clip.made_clip(3, shape=(9, 2, 2, 4))
    assert features.shape == (9, 2, 2, 4)
    assert signals["saliency"].shape == (9, 2, 2)
    looks = torch.nn.functional.normalize(signals["frame_features"], dim=1)
    alike = (looks[:-1] * looks[1:]).sum(1) > 0.9
    assert alike.tolist() == [True, True, False, True, True, False, True, True]
