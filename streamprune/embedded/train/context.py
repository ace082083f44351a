"""Throw-away heads inside the language model: which way an object moves, and in which scene a token is.

They ask of every visual token what the questions about motion and counting need, so those are learnt from
dozens of
labels per clip instead of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamprune.embedded.train.samples import Sample
from streamprune.embedded.world.scenes import DIRECTIONS

LAYERS = (2, 3)  # outputs of these decoder layers; the question still has layers left to read them
_MAX_SCENES = 4
_IGNORED = -100


class ContextLabels(nn.Module):
    """Linear heads on the hidden states of visual tokens after the layers in ``LAYERS``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.motion = nn.ModuleList(nn.Linear(channels, len(DIRECTIONS)) for _ in LAYERS)
        self.scene = nn.ModuleList(nn.Linear(channels, _MAX_SCENES) for _ in LAYERS)

    def loss(self, hidden: Sequence[Tensor], motions: Tensor, scenes: Tensor) -> Tensor:
        """Mean cross entropy; ``hidden`` are (clips, kept, channels), labels (clips, kept), -100 = skip."""
        losses = []
        for heads, labels in ((self.motion, motions), (self.scene, scenes)):
            if not (labels != _IGNORED).any():
                continue
            for head, states in zip(heads, hidden, strict=True):
                losses.append(
                    nn.functional.cross_entropy(head(states).float().flatten(0, 1), labels.flatten())
                )
        return torch.stack(losses).mean() if losses else hidden[0].sum() * 0


def context_labels(samples: Sequence[Sample], kept: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Labels of the kept tokens of each sample, both (samples, kept).

    Motion is asked of main objects from their second shown frame on; scenes are asked of whole clips only.
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
        motions[row] = motion.reshape(-1)[kept[row]]
        if len(shown) == sample.clip.num_frames and len(shown) > 1:
            of_frame = np.zeros(len(shown), np.int64)
            for number, scene in enumerate(sample.clip.script.scenes):
                of_frame[scene.start : scene.stop] = number
            scenes[row] = of_frame[kept[row] // motion.shape[1]]
    return torch.from_numpy(motions), torch.from_numpy(scenes)
