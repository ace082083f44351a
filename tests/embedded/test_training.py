"""Training: drops keep what they say, labels fit, the loss falls, a run resumes."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from streamprune.embedded.train.__main__ import parse
from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.architectures import ARCHITECTURES
from streamprune.embedded.train.context import context_labels
from streamprune.embedded.train.dropping import draw_keep, draw_tokens
from streamprune.embedded.train.language import language_loss
from streamprune.embedded.train.loop import Run, Stage, Student, log_entries, train
from streamprune.embedded.train.optimiser import learning_rate
from streamprune.embedded.train.progress import LogBar
from streamprune.embedded.train.samples import Diet, Sample, memory_shaped, plain
from streamprune.embedded.train.stages import curriculum
from streamprune.embedded.world.scenes import DIRECTIONS

FIRST = ARCHITECTURES["llava_onevision"]
SECOND = ARCHITECTURES["qwen2_5_vl"]


def test_drops_keep_the_asked_number_and_favour_objects_about_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    sample = plain(1, Diet(16))
    coverage = sample.coverage.max(0)
    base = float((coverage > 0.2).mean())
    shares = []
    for _ in range(300):
        keep = draw_keep(rng, coverage.size, 0.65)
        chosen = draw_tokens(rng, coverage, keep)
        assert len(chosen) == keep == len(set(chosen.tolist()))
        assert (np.diff(chosen) > 0).all()
        if keep < coverage.size // 3:
            shares.append(float((coverage.reshape(-1)[chosen] > 0.2).mean()))
    assert 0.3 < np.mean(np.array(shares) > 1.7 * base) < 0.7


def test_memory_shaped_samples_show_old_and_recent_frames_with_clipped_gaps() -> None:
    diet = Diet(16, 8)
    for seed in range(20):
        sample = memory_shaped(seed, diet)
        steps, slots = np.diff(sample.shown), np.diff(sample.slots)
        assert len(sample.shown) == len(sample.slots) == 16
        assert sample.shown[-1] == sample.clip.num_frames - 1
        assert (steps >= slots).all()
        assert slots.min() >= 1
        assert slots.max() <= 4
        for question in sample.questions:
            assert question.type not in ("when", "count")
            assert all(set(range(a, b)) & set(sample.shown) for _, a, b in question.spans)


def test_learning_rate_rises_holds_and_falls() -> None:
    rates = [learning_rate(step, 200, 1.0, 0.1) for step in range(200)]
    assert rates[0] < 0.1
    assert rates[40] == rates[90] == 1.0
    assert rates[199] < 0.12
    assert all(a >= b for a, b in pairwise(rates[90:]))


def _tiny(steps: int) -> list[Stage]:
    def loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
        return language_loss(student, step, seed, count, Diet(1, 3, drop_share=0.5), frozen=False)

    return [Stage("tiny", steps, 4, 2e-3, 1e-4, lambda name: True, loss)]


@pytest.mark.parametrize(("architecture", "steps", "falls_to"), [(FIRST, 45, 5.6), (SECOND, 25, 5.1)])
def test_loss_falls_in_a_few_steps(
    architecture: Architecture, steps: int, falls_to: float, tmp_path: Path
) -> None:
    tower = curriculum(architecture)[0]
    short = Stage("tower", steps, 12, tower.peak, tower.floor, tower.trains, tower.loss)
    train(Run(tmp_path, 0, 1), architecture, [short])
    losses = [entry["dense"] for entry in log_entries(tmp_path)]
    assert losses[-1] < falls_to
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("architecture", [FIRST, SECOND])
def test_a_stopped_run_ends_where_an_unbroken_one_does(architecture: Architecture, tmp_path: Path) -> None:
    whole = train(Run(tmp_path / "whole", 0, 1), architecture, _tiny(2) + _tiny(2)).state_dict()
    train(Run(tmp_path / "broken", 0, 1), architecture, _tiny(2))
    resumed = Run(tmp_path / "broken", 0, 1)
    rest = train(resumed, architecture, _tiny(2) + _tiny(2)).state_dict()
    assert resumed.samples == 16
    for name, value in whole.items():
        assert torch.equal(value, rest[name]), name


@pytest.mark.parametrize("architecture", [FIRST, SECOND])
def test_stages_name_the_parameters_they_train(architecture: Architecture) -> None:
    stages = curriculum(architecture)
    names = [stage.name for stage in stages]
    assert names[0] == "tower"
    assert sum(name.startswith("16 frames") for name in names) >= 1
    student = Student(architecture)
    trained = [{n for n, _ in student.named_parameters() if stage.trains(n)} for stage in stages]
    in_tower = {n for n, _ in student.named_parameters() if n.startswith(architecture.tower)}
    assert in_tower
    assert in_tower < trained[0]
    assert not {n for n in trained[0] if "language_model" in n}
    assert not trained[1] & in_tower
    assert len(trained[-1]) == len(list(student.parameters()))


def test_two_frames_of_a_slice_give_one_label() -> None:
    sample = next(s for s in (plain(seed, Diet(16)) for seed in range(50)) if _one_that_moves(s))
    every = np.arange(16 * 36)[None]
    motions, scenes = (labels[0].numpy().reshape(16, 36) for labels in context_labels([sample], every))
    folded = context_labels([sample], every[:, : 8 * 36], slice_frames=2)
    for slices, frames in zip(folded, (motions, scenes), strict=True):
        later, earlier = frames[1::2], frames[::2]
        expected = np.where(later == -100, earlier, later)
        assert np.array_equal(slices[0].numpy().reshape(8, 36), expected)
    thing = next(t for t in sample.clip.script.things if t.role == "main" and t.motion != "still")
    assert (motions == list(DIRECTIONS).index(thing.motion)).any()


def _one_that_moves(sample: Sample) -> bool:
    return any(t.role == "main" and t.motion != "still" for t in sample.clip.script.things)


def test_command_line_asks_for_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err


def test_progress_follows_the_log(tmp_path: Path) -> None:
    run = Run(tmp_path, 0, 1)
    run.log({"stage": "tiny", "step": 20, "loss": 1.5, "accuracy": 0.25})
    run.log({"stage": "tiny", "step": 40, "loss": 0.5})
    with LogBar(tmp_path, _tiny(50), Console(file=io.StringIO())) as bar:
        assert bar.update() == {"tiny": "loss 0.500  held-out 0.250"}
