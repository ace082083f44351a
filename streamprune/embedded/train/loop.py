"""The training loop: steps, logs and checkpoints of one stage after another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.attention import register
from streamprune.embedded.train.context import ContextLabels, PlaceLabels
from streamprune.embedded.train.optimiser import Optimiser, learning_rate
from streamprune.embedded.train.parallel import average_gradients, total
from streamprune.embedded.train.tower import ObjectLabels, TokenLabels

CHECKPOINT = "state.pt"
_SAVE_EVERY_SECONDS = 120.0


class Student(nn.Module):
    """Everything that is trained: the model, its pooling head and the throw-away heads."""

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.architecture = architecture
        self.model = architecture.build()
        self.model.set_attn_implementation("eager")  # on a CPU twice as fast as sdpa in training at this size
        self.model.model.language_model.set_attn_implementation(register())
        channels = self.model.config.text_config.hidden_size
        self.head = architecture.pooling_head()
        self.tokens = TokenLabels(channels, with_place=architecture.placed_by_tower)
        self.context = ContextLabels(channels)
        self.places = None if architecture.placed_by_tower else PlaceLabels(channels)
        self.objects = ObjectLabels(self.model.config.vision_config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device


Batch = Callable[[Student, int, int, int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Stage:
    """``steps`` steps of ``loss(student, step, first_seed, per_worker)`` on what ``trains`` accepts."""

    name: str
    steps: int
    batch: int  # samples per step, over all workers
    peak: float
    floor: float
    trains: Callable[[str], bool]
    loss: Batch
    probe: Callable[[Student], dict[str, float]] | None = None
    probe_every: int = 100
    hold: float = 0.5


@dataclass
class Run:
    """Where a run stands; saved with every checkpoint."""

    folder: Path
    rank: int
    workers: int
    stage: int = 0
    step: int = 0
    cpu_seconds: float = 0.0
    samples: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def log(self, entry: dict[str, Any]) -> None:
        """Append one line to ``log.jsonl``."""
        if self.leads:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")


def save(run: Run, student: Student, optimiser: Optimiser | None) -> None:
    """Write the checkpoint in one move, so that a killed process leaves the last one whole."""
    if not run.leads:
        return
    state = {
        "student": student.state_dict(),
        "optimiser": optimiser.state() if optimiser else None,
        "run": {k: getattr(run, k) for k in ("stage", "step", "cpu_seconds", "samples")},
    }
    partial = run.folder / (CHECKPOINT + ".part")
    torch.save(state, partial)
    partial.replace(run.folder / CHECKPOINT)


def resume(run: Run, student: Student) -> list[dict[str, Any]] | None:
    """Take up the checkpoint of the run's folder, if there is one; returns the optimiser's state."""
    path = run.folder / CHECKPOINT
    if not path.exists():
        return None
    state = torch.load(path, map_location=student.device, weights_only=True)
    student.load_state_dict(state["student"])
    for key, value in state["run"].items():
        setattr(run, key, value)
    optimiser_state: list[dict[str, Any]] | None = state["optimiser"]
    return optimiser_state


def train_stage(
    run: Run, student: Student, stage: Stage, first_seed: int, states: list[dict[str, Any]] | None
) -> None:
    """Train one stage from ``run.step`` to its end."""
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(stage.trains(name))
    optimiser = Optimiser((n, p) for n, p in student.named_parameters() if p.requires_grad)
    if states is not None:
        optimiser.load(states)
    share = stage.batch // run.workers
    clock, saved = time.monotonic(), time.monotonic()
    cpu, cpu_before = time.process_time(), run.cpu_seconds
    for step in range(run.step, stage.steps):
        student.train()
        seed = first_seed + step * stage.batch + run.rank * share
        autocast = torch.autocast(student.device.type, torch.bfloat16)
        with autocast:
            loss, parts = stage.loss(student, step, seed, share)
        torch.autograd.backward(loss)
        average_gradients(optimiser.parameters)
        rate = learning_rate(step, stage.steps, stage.peak, stage.floor, hold=stage.hold)
        optimiser.step(rate)
        run.step, run.samples = step + 1, run.samples + stage.batch
        run.cpu_seconds = cpu_before + run.workers * (time.process_time() - cpu)
        done = run.step == stage.steps
        entry: dict[str, Any] = {"stage": stage.name, "step": run.step, "loss": float(loss.detach()), **parts}
        if stage.probe and (run.step % stage.probe_every == 0 or done):
            entry |= _probe(run, student, stage.probe)
        if run.step % 20 == 0 or done:
            entry |= {"cpu_minutes": run.cpu_seconds / 60, "seconds": time.monotonic() - clock, "rate": rate}
            run.log({k: round(v, 5) if isinstance(v, float) else v for k, v in entry.items()})
        if time.monotonic() - saved > _SAVE_EVERY_SECONDS:
            save(run, student, optimiser)
            saved = time.monotonic()


def _probe(run: Run, student: Student, probe: Callable[[Student], dict[str, float]]) -> dict[str, float]:
    """Held-out figures; only the leading process computes them, the others wait at the next gradient."""
    if not run.leads:
        return {}
    student.eval()
    with torch.no_grad(), torch.autocast(student.device.type, torch.bfloat16):
        return probe(student)


def train(
    run: Run,
    architecture: Architecture,
    stages: list[Stage],
    device: str = "cpu",
    export: Path | None = None,
) -> Student:
    """Train all stages that are not done yet; a finished stage is saved and, if asked, exported."""
    run.folder.mkdir(parents=True, exist_ok=True)
    student = Student(architecture).to(device)
    states = resume(run, student)
    for number in range(run.stage, len(stages)):
        train_stage(run, student, stages[number], number * 10_000_000, states)
        states = None
        run.stage, run.step = number + 1, 0
        save(run, student, None)
        if run.leads and export is not None:
            architecture.save(export, student.model, student.head)
    total(torch.zeros(1))
    return student


def log_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the log of a run line by line."""
    path = folder / "log.jsonl"
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)
