"""Timing in units: the arithmetic and the command, never how long anything takes."""

from __future__ import annotations

import json

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

    monkeypatch.setattr(units, "_timed", timed)
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


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_clip.made_clip
    monkeypatch.setattr(units, "made_clip", lambda scenes: made(scenes, shape=(4, 5, 5, 8)))


@pytest.mark.usefixtures("small")
def test_the_command_prints_a_line_for_each_method_and_scene_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["fastvid", "stride", "--scenes", "1", "2", "--repeats", "1", "--keep-ratio", "0.2"]
    assert units.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["fastvid", "stride", "fastvid", "stride"]
    assert all("units" in line for line in lines)
    assert units.main([*asked, "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["method"], r["scenes"], r["kept_tokens"]) for r in records][1::2] == [
        ("stride", 1, 20),
        ("stride", 2, 20),
    ]
    assert all(r["wall_units"] > 0 and r["keep_ratio"] == 0.2 for r in records)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fastvidd"], "Did you mean 'fastvid'"),
        (["stride", "--scenes", "2", "--keep-ratio", "2"], "keep_ratio must be in"),
        (["stride", "--scenes", "0"], "scenes must be in"),
        (["stride", "--scenes", "2", "--repeats", "0"], "repeats must be at least 1"),
        ([], "METHOD"),
    ],
)
def test_usage_errors_exit_with_two(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        units.main(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
