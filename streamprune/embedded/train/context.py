"""Throw-away heads inside the language model: which way an object moves, in which scene and where a token is.

They ask of every visual token what the questions about motion, counting and place need, so those are learnt
from dozens of labels per clip instead of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamprune.embedded.train.samples import Sample
from streamprune.embedded.world.draw import CELLS
from streamprune.embedded.world.scenes import DIRECTIONS

LAYERS = (2, 3)  # outputs of these decoder layers; the question still has layers left to read them
PLACE_LAYERS = (1, 2)  # where a token stands has to be known before anything is compared over time
_MAX_SCENES = 4
_MAX_TIMES = 32
_IGNORED = -100


class ContextLabels(nn.Module):
    """Linear heads on the hidden states of visual tokens after the layers in ``LAYERS``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.motion = nn.ModuleList(nn.Linear(channels, len(DIRECTIONS)) for _ in LAYERS)
        self.scene = nn.ModuleList(nn.Linear(channels, _MAX_SCENES) for _ in LAYERS)

    def loss(self, states: Sequence[Tensor], motions: Tensor, scenes: Tensor) -> Tensor:
        """Mean cross entropy; labels (clips, kept), -100 = skip.

        ``states`` (clips, kept, channels) are those before the first layer and after each.
        """
        losses, hidden = [], [states[layer] for layer in LAYERS]
        for heads, labels in ((self.motion, motions), (self.scene, scenes)):
            if not (labels != _IGNORED).any():
                continue
            for head, after in zip(heads, hidden, strict=True):
                losses.append(
                    nn.functional.cross_entropy(head(after).float().flatten(0, 1), labels.flatten())
                )
        return torch.stack(losses).mean() if losses else hidden[0].sum() * 0


class PlaceLabels(nn.Module):
    """Linear heads on the same states after ``PLACE_LAYERS``: each token's own time, row and column."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out = nn.ModuleList(nn.Linear(channels, 2 * CELLS + _MAX_TIMES) for _ in PLACE_LAYERS)

    def loss(self, states: Sequence[Tensor], places: Tensor) -> Tensor:
        """Mean cross entropy; ``places`` (3, clips, kept) count from the beginning of the video."""
        losses = []
        for head, layer in zip(self.out, PLACE_LAYERS, strict=True):
            guesses = head(states[layer]).float().flatten(0, 1).split([_MAX_TIMES, CELLS, CELLS], -1)
            losses += [
                nn.functional.cross_entropy(guess, axis.flatten())
                for guess, axis in zip(guesses, places, strict=True)
            ]
        return torch.stack(losses).mean()


def context_labels(
    samples: Sequence[Sample], kept: NDArray[np.int64], slice_frames: int = 1
) -> tuple[Tensor, Tensor]:
    """Labels of the kept tokens of each sample, both (samples, kept).

    Motion is asked of main objects from their second shown frame on; scenes are asked of whole clips only. Of
    a slice of several frames the last one that has a label counts.
    """
    motions, scenes = np.full(kept.shape, _IGNORED), np.full(kept.shape, _IGNORED)
    for row, sample in enumerate(samples):
        shown = np.array(sample.shown)
        motion = np.full((len(shown), sample.coverage.shape[-1]), _IGNORED)
        for thing, coverage in zip(sample.clip.script.things, sample.coverage, strict=True):
            seen = np.flatnonzero((shown >= thing.start) & (shown < thing.stop))[1:]
            if thing.role == "main" and len(seen):
                label = list(DIRECTIONS).index(thing.motion)
                motion[seen] = np.where(coverage[seen] > 0.12, label, motion[seen])
        motions[row] = _last_labels(motion, slice_frames).reshape(-1)[kept[row]]
        if len(shown) == sample.clip.num_frames and len(shown) > 1:
            of_frame = np.zeros((len(shown), 1), np.int64)
            for number, scene in enumerate(sample.clip.script.scenes):
                of_frame[scene.start : scene.stop] = number
            scenes[row] = _last_labels(of_frame, slice_frames)[kept[row] // motion.shape[1], 0]
    return torch.from_numpy(motions), torch.from_numpy(scenes)


def _last_labels(labels: NDArray[np.int64], slice_frames: int) -> NDArray[np.int64]:
    """Labels (frames, ...) to (slices, ...): of each slice's frames the last label that is one."""
    found = labels[::slice_frames].copy()
    for offset in range(1, slice_frames):
        later = labels[offset::slice_frames]
        found[: len(later)] = np.where(later == _IGNORED, found[: len(later)], later)
    return found
