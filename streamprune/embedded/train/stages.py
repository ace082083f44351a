"""The curriculum: the tower on crowded frames, then clips of growing length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from streamprune.embedded.train.architecture import Architecture
from streamprune.embedded.train.language import language_loss, probe
from streamprune.embedded.train.loop import Stage, Student
from streamprune.embedded.train.samples import Diet
from streamprune.embedded.train.tower import crowd_batch, dense_accuracy, object_labels, pixels
from streamprune.embedded.world.crowd import LabelledFrame, crowd


def _tensors(frames: list[LabelledFrame], device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images = pixels(np.concatenate([f.images for f in frames])).to(device)
    kinds = torch.from_numpy(np.concatenate([f.kinds for f in frames])).to(device)
    colors = torch.from_numpy(np.concatenate([f.colors for f in frames])).to(device)
    present = torch.from_numpy(object_labels([f.things for f in frames])).to(device)
    return images, kinds, colors, present


def _tower_loss(student: Student, step: int, seed: int, count: int) -> tuple[Tensor, dict[str, float]]:
    architecture = student.architecture
    crowds = crowd_batch(seed, count, architecture.slice_frames)
    images, kinds, colors, present = _tensors(crowds, student.device)
    patches = architecture.patches(student.model, images)
    tokens = architecture.tokens(student.model, patches)
    loss = student.tokens.loss(tokens.flatten(0, 1), kinds, colors)
    if architecture.placed_by_tower:
        loss = loss + 0.3 * student.tokens.place_loss(tokens)
    parts = {"dense": float(loss.detach())}
    if student.head is not None:
        objects = student.objects.loss(student.head(patches.detach()), present)
        loss = loss + 0.1 * objects
        parts["objects"] = float(objects.detach())
    return loss, parts


def _tower_probe(student: Student) -> dict[str, float]:
    architecture = student.architecture
    frames = [crowd(seed, "eval", frames=architecture.slice_frames) for seed in range(96)]
    images, kinds, colors, present = _tensors(frames, student.device)
    patches = architecture.patches(student.model, images)
    tokens = architecture.tokens(student.model, patches)
    figures = dense_accuracy(student.tokens, tokens.flatten(0, 1), kinds, colors)
    if student.head is not None:
        figures["held_out_objects"] = float(student.objects.loss(student.head(patches), present))
    return figures


def _everything(name: str) -> bool:
    return True


def _tower(architecture: Architecture, steps: int, batch: int) -> Stage:
    """The tower, what projects its patches, and the heads on both."""
    parts = (*architecture.tower, *architecture.projector, "head.", "tokens.", "objects.")

    def part(name: str) -> bool:
        return name.startswith(parts)

    return Stage("tower", steps, batch, 2e-3, 1e-4, part, _tower_loss, _tower_probe, hold=0.7)


def _clips(
    architecture: Architecture,
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

    def all_but_tower(name: str) -> bool:
        return not name.startswith(architecture.tower)

    part = _everything if tower_every else all_but_tower
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


# what the second model still gets wrong when its tower starts to learn again: whether a shape is there
# in a colour asks for both at once
_LATE = {
    "exist_main": 2.0,
    "exist_needle": 2.0,
    "before_needle": 2.0,
    "when": 1.8,
    "count": 1.8,
    "describe": 1.5,
    "scene": 1.5,
}


def curriculum(architecture: Architecture) -> list[Stage]:
    """All stages of an architecture's training in order."""
    return _CURRICULA[architecture.model_type](architecture)


def _single_frames(architecture: Architecture) -> list[Stage]:
    """The first model's training, where every frame is a slice."""
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
    clips = partial(_clips, architecture)
    return [
        _tower(architecture, 1700, 48),
        clips("1 frame", 320, 60, (2e-3, 1e-3), [(1.0, Diet(1))]),
        clips("2 frames", 400, 44, (1.2e-3, 6e-4), [(1.0, two)], tower_every=1),
        clips("4 frames", 200, 32, (1.2e-3, 6e-4), [(1.0, four)], tower_every=1),
        clips("8 frames", 220, 24, (1.5e-3, 1e-3), [(1.0, eight)]),
        clips("16 frames", 700, 16, (1.5e-3, 6e-4), mixed),
        clips("16 frames, whole model", 1300, 16, (1.5e-3, 2e-5), mixed, tower_every=4, hold=0.45),
    ]


def _slices_of_two(architecture: Architecture) -> list[Stage]:
    """The second model's training: slices of two frames, so that half as many tokens show a clip.

    No clip is shaped like a memory: the stock rule for times knows one distance between slices.
    """
    four = Diet(4, one_scene_share=0.5, focus=_MOVING)
    eight = Diet(8, one_scene_share=0.15, drop_share=0.4)
    sixteen = Diet(16, 10, drop_share=0.6)

    def mixed(focus: Mapping[str, float]) -> list[tuple[float, Diet]]:
        wanted = replace(sixteen, focus=focus)
        return [
            (0.74, wanted),
            (0.10, replace(four, drop_share=0.5)),
            (0.10, replace(eight, focus=focus)),
            (0.06, replace(wanted, frames=32, drop_share=1.0)),
        ]

    clips = partial(_clips, architecture)
    return [
        _tower(architecture, 1700, 48),
        clips("1 frame", 320, 60, (2e-3, 1e-3), [(1.0, Diet(1))]),
        clips("4 frames", 500, 32, (1.5e-3, 6e-4), [(1.0, four)], tower_every=1),
        clips("8 frames", 300, 24, (1.5e-3, 1e-3), [(1.0, eight)], tower_every=2),
        clips("16 frames", 500, 16, (1.5e-3, 1e-3), mixed(_LONG)),
        clips("16 frames, whole model", 1500, 16, (1.5e-3, 2e-5), mixed(_LATE), tower_every=2, hold=0.45),
    ]


_CURRICULA = {"llava_onevision": _single_frames, "qwen2_5_vl": _slices_of_two}
