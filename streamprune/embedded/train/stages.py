"""The curriculum: the tower on crowded frames, then clips of growing length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

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
from streamprune.embedded.world.crowd import LabelledFrame, crowd


def _tensors(frames: list[LabelledFrame], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = pixels(np.stack([f.image for f in frames])).to(device)
    kinds = torch.from_numpy(np.concatenate([f.kinds for f in frames])).to(device)
    colors = torch.from_numpy(np.concatenate([f.colors for f in frames])).to(device)
    present = torch.from_numpy(object_labels([f.things for f in frames])).to(device)
    return images, kinds, colors, present


def _tower_loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
    images, kinds, colors, present = _tensors(crowd_batch(seed, count), student.device)
    patches = patch_features(student.model, images)
    tokens = project(student.model, patches)
    dense = student.tokens.loss(tokens.flatten(0, 1), kinds, colors) + 0.3 * student.tokens.place_loss(tokens)
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
    parts = (
        "model.model.vision_tower.",
        "model.model.multi_modal_projector.",
        "head.",
        "tokens.",
        "objects.",
    )
    return name.startswith(parts)


def _frozen_tower(name: str) -> bool:
    return not name.startswith("model.model.vision_tower.")


def _everything(name: str) -> bool:
    return True


def _clips(
    name: str,
    steps: int,
    batch: int,
    rates: tuple[float, float],
    diets: Sequence[tuple[float, Diet]],
    tower_every: int = 0,
    hold: float = 0.5,
) -> Stage:
    """A language stage over clips of a few kinds, each with its share of the steps; the first is probed.

    The tower learns in every ``tower_every``-th step, or not at all.
    """

    def loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
        luck = np.random.default_rng([5, step]).random()
        edges = np.cumsum([share for share, _ in diets])
        diet = diets[min(int(np.searchsorted(edges, luck, side="right")), len(diets) - 1)][1]
        frozen = not tower_every or step % tower_every != 0
        return language_loss(student, step, seed, count, diet, frozen)

    def check(student: Student) -> dict[str, float]:
        return probe(student, replace(diets[0][1], focus={}), clips=64)

    part = _everything if tower_every else _frozen_tower
    return Stage(name, steps, batch, *rates, part, loss, check, 100, hold)


_MOVING = {"motion": 2.5, "where_main": 2.0, "describe": 2.0}
_LONG = {
    "describe": 2.0,
    "scene": 1.8,
    "before_needle": 1.8,
    "where_needle": 1.3,
    "where_main": 1.2,
    "count": 1.2,
}


def curriculum() -> list[Stage]:
    """All stages in order."""
    two = Diet(2, one_scene_share=0.6, focus=_MOVING)
    four = Diet(4, one_scene_share=0.5, focus=_MOVING)
    eight = Diet(8, one_scene_share=0.15, drop_share=0.65)
    sixteen = Diet(16, 10, memory_share=0.08, drop_share=0.6, focus=_LONG)
    mixed = [
        (0.72, sixteen),
        (0.10, replace(four, drop_share=0.5)),
        (0.10, replace(eight, focus=_LONG)),
        (0.08, replace(sixteen, frames=32, drop_share=1.0)),
    ]
    return [
        Stage("tower", 1700, 48, 2e-3, 1e-4, _tower_part, _tower_loss, _tower_probe, hold=0.7),
        _clips("1 frame", 320, 60, (2e-3, 1e-3), [(1.0, Diet(1))]),
        _clips("2 frames", 400, 44, (1.2e-3, 6e-4), [(1.0, two)], tower_every=1),
        _clips("4 frames", 200, 32, (1.2e-3, 6e-4), [(1.0, four)], tower_every=1),
        _clips("8 frames", 220, 24, (1.5e-3, 1e-3), [(1.0, eight)]),
        _clips("16 frames", 700, 16, (1.5e-3, 6e-4), mixed),
        _clips("16 frames, whole model", 1300, 16, (1.5e-3, 2e-5), mixed, tower_every=4, hold=0.45),
    ]
