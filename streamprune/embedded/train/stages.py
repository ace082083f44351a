"""The curriculum: the tower on crowded frames, then clips of growing length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from streamprune.embedded.world.crowd import LabelledFrame, crowd
from streamprune.embedded.train.language import language_loss, probe
from streamprune.embedded.train.loop import Stage, Student
from streamprune.embedded.train.samples import Diet
from streamprune.embedded.train.tower import (
    crowd_batch,
    dense_accuracy,
    object_labels,
    patch_features,
    pixels,
    project,
)


def _tensors(frames: list[LabelledFrame], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = pixels(np.stack([f.image for f in frames])).to(device)
    kinds = torch.from_numpy(np.concatenate([f.kinds for f in frames])).to(device)
    colors = torch.from_numpy(np.concatenate([f.colors for f in frames])).to(device)
    present = torch.from_numpy(object_labels([f.things for f in frames])).to(device)
    return images, kinds, colors, present


def _tower_loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
    images, kinds, colors, present = _tensors(crowd_batch(seed, count), student.device)
    patches = patch_features(student.model, images)
    tokens = project(student.model, patches).flatten(0, 1)
    dense = student.tokens.loss(tokens, kinds, colors)
    objects = student.objects.loss(student.head(patches.detach()), present)
    return dense + 0.1 * objects, {"dense": float(dense.detach()), "objects": float(objects.detach())}


def _tower_probe(student: Student) -> dict[str, float]:
    frames = [crowd(seed, "eval") for seed in range(96)]
    images, kinds, colors, present = _tensors(frames, student.device)
    patches = patch_features(student.model, images)
    figures = dense_accuracy(student.tokens, project(student.model, patches).flatten(0, 1), kinds, colors)
    figures["held_out_objects"] = float(student.objects.loss(student.head(patches), present))
    return figures


def _tower_part(name: str) -> bool:
    return name.startswith(("model.model.vision_tower.", "model.model.multi_modal_projector.", "head.")) or (
        name.startswith(("tokens.", "objects."))
    )


def _frozen_tower(name: str) -> bool:
    return not name.startswith("model.model.vision_tower.")


def _everything(name: str) -> bool:
    return True


def _clips(
    name: str, steps: int, batch: int, peak: float, floor: float, diet: Diet, frozen: bool = True, hold: float = 0.5
) -> Stage:
    """A language stage over clips of one kind."""

    def loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
        return language_loss(student, step, seed, count, diet, frozen)

    def check(student: Student) -> dict[str, float]:
        return probe(student, replace(diet, focus={}), clips=64)

    return Stage(name, steps, batch, peak, floor, _frozen_tower if frozen else _everything, loss, check, 100, hold)


_MOVING = {"motion": 2.5, "where_main": 2.0, "describe": 2.0}


def curriculum() -> list[Stage]:
    """All stages in order."""
    two = Diet(2, one_scene_share=0.6, focus=_MOVING)
    four = Diet(4, one_scene_share=0.5, focus=_MOVING)
    return [
        Stage("tower", 1700, 48, 2e-3, 1e-4, _tower_part, _tower_loss, _tower_probe, hold=0.7),
        _clips("1 frame", 320, 60, 2e-3, 1e-3, Diet(1)),
        _clips("2 frames", 360, 44, 2e-3, 1e-3, two),
        _clips("4 frames", 320, 32, 2e-3, 1e-3, four),
        _clips("8 frames", 320, 24, 2e-3, 1e-3, Diet(8, one_scene_share=0.15)),
        _clips("16 frames, drops", 1100, 16, 2e-3, 5e-4, Diet(16, 10, memory_share=0.12, drops=True)),
        _clips("16 frames, all", 800, 16, 7e-4, 3e-5, Diet(16, 10, memory_share=0.12, drops=True), False, 0.3),
    ]
