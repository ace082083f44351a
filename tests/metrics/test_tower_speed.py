"""Measuring a tower that remembers frames: what is shown, what is compared, what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from streamprune.cli import app
from streamprune.embedded.evaluate.tower_reuse import windows
from streamprune.encoder.stc import STCCacher
from streamprune.metrics import tower_speed
from streamprune.metrics.made_stream import made_stream
from streamprune.metrics.tower_speed import tower_speeds
from streamprune.models.base import VideoFamily
from streamprune.models.made import TOWER_SIZES, made_family
from streamprune.report.speed import tower_markdown

runner = CliRunner()


@pytest.fixture(scope="module")
def family() -> VideoFamily:
    return made_family("tiny", tower="tiny")


def test_before_a_static_camera_little_changes_and_before_a_busy_one_everything() -> None:
    for scene, least, most in (("static", 0.01, 0.2), ("busy", 0.9, 1.0)):
        shown = made_stream(scene, 6, 112)  # type: ignore[arg-type]
        assert np.array_equal(shown, made_stream(scene, 6, 112))  # type: ignore[arg-type]
        assert shown.shape == (6, 112, 112, 3)
        assert shown.dtype == np.uint8
        change = np.abs(np.diff(shown.astype(float), axis=0)).max(-1)
        # more than noise does in either picture
        share = (change.reshape(5, 14, 8, 14, 8).max((2, 4)) > 40).mean()
        assert least < share <= most
        assert (change > 0).mean() > 0.5, "the sensor has its noise"
    with pytest.raises(ValueError, match="unknown scene 'calm'"):
        made_stream("calm", 2, 32)  # type: ignore[arg-type]


def test_a_made_tower_has_the_sizes_asked_for(family: VideoFamily) -> None:
    size = TOWER_SIZES["tiny"]
    tower = family.model.get_encoder("video")
    assert len(tower.encoder.layers) == size.layers
    assert family.default_size() == (size.side, size.side)
    assert family.preprocess([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 3, size.side, size.side)
    assert TOWER_SIZES["so400m"].width == 1152
    assert (TOWER_SIZES["so400m"].side // TOWER_SIZES["so400m"].patch) ** 2 == 729
    with pytest.raises(ValueError, match=r"unknown size of a tower 'so40m'\. Did you mean 'so400m'"):
        made_family("tiny", tower="so40m")


def test_every_setting_is_measured_on_every_scene(family: VideoFamily) -> None:
    methods = {"keys": STCCacher(), "pixels": STCCacher(choose="pixels")}
    threads, told = torch.get_num_threads(), []
    found = list(
        tower_speeds(
            family, methods, frames=16, progress=lambda stage, done, total: told.append((done, total))
        )
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert torch.get_num_threads() == threads
    rows = {(speed.scene, speed.method): speed for speed in found}
    assert [speed.frames for speed in found] == [16, 16, 4, 4]
    # of 16 patches 4 and every second frame all of them
    assert rows["static", "keys"].tower_share == pytest.approx(0.625)
    assert 1 / 16 < rows["static", "pixels"].tower_share < 0.5
    assert rows["busy", "pixels"].tower_share == 1
    for speed in found:
        assert speed.wall_ratio > 0 < speed.cpu_ratio
        assert speed.remembered_bytes > 0


def test_a_frame_costs_the_median_of_its_kind(family: VideoFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    # one reference among 16 frames, then four; an outlier among the frames and one among the references
    reusing = iter([10.0, *[1.0] * 7, 90.0, *[1.0] * 7, 6.0, 6.0, 80.0, 6.0])

    def scripted(call: Any) -> tuple[float, float]:
        call()
        seconds = 5.0 if call.func == family.encode else next(reusing)
        return seconds, 2 * seconds

    monkeypatch.setattr(tower_speed, "timed", scripted)
    static, busy = tower_speeds(family, {"pixels": STCCacher(choose="pixels")}, frames=16)
    assert static.wall_ratio == static.cpu_ratio == pytest.approx((10 + 15 * 1) / 16 / 5)
    assert busy.wall_ratio == pytest.approx(6 / 5)
    assert (static.plain_milliseconds, busy.plain_milliseconds) == (5000, 5000)


@pytest.mark.parametrize("static", [True, False])
def test_questions_are_answered_by_the_frames_shown(static: bool) -> None:
    found = windows(30, static=static)
    assert sum(len(window.questions) for window in found) == 30
    for window in found:
        assert window.frames.shape == (16, 96, 96, 3)
        for question in window.questions:
            assert question.at_frame % 32 == 24
            assert all(start < question.at_frame < stop + 16 for start, stop in question.evidence)


def test_bench_records_times_and_answers(tmp_path: Path) -> None:
    arguments = ["bench", "--stage", "tower-cache", "--size", "tiny", "--frames", "3", "--questions", "4"]
    done = runner.invoke(app, [*arguments, "--method", "pixels", "--json", str(tmp_path / "t.json")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["tower"] == {"layers": 2, "width": 32, "patches": 16}
    assert [row["scene"] for row in record["rows"]] == ["static", "busy", "static stream", "moving stream"]
    for row in record["rows"][2:]:
        assert (row["questions"], row["method"]) == (4, "pixels")
        lost = 100 * (row["full_accuracy"] - row["accuracy"])
        assert row["loss_points"] == pytest.approx(lost, abs=0.01)
        assert 0 < row["tower_share"] < 1
    assert record["rows"][2]["accuracy"] >= 0.75
    lines = tower_markdown(record["rows"]).splitlines()
    assert lines[0] == "| scene | setting | recomputed | tower time | accuracy | points lost |"
    assert len(lines) == 6
    assert lines[2].endswith(" |  |  |")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "values"], "unknown setting of stc to time 'values'"),
        (["--frames", "2"], "frames must be at least 3, got 2"),
        (["--questions", "-1"], "questions must be at least 0, got -1"),
        (["--size", "mid"], "unknown size of a tower 'mid'"),
    ],
)
def test_bad_settings_are_refused(arguments: list[str], said: str) -> None:
    done = runner.invoke(app, ["bench", "--stage", "tower-cache", *arguments])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
