"""Stage A: the vision tower learns, token by token, which kind of object in which colour it looks at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamprune.embedded.world.crowd import BACKGROUND, LabelledFrame, crowd
from streamprune.embedded.world.draw import CELLS, COLOR_NAMES, KINDS
from streamprune.embedded.world.scenes import Thing

_BACKGROUND_WEIGHT = 0.15


class TokenLabels(nn.Module):
    """Throw-away heads on projected tokens: kind and colour of the object there, and the token's place."""

    def __init__(self, channels: int, with_place: bool = True) -> None:
        super().__init__()
        self.kind = nn.Linear(channels, len(KINDS) + 1)
        self.color = nn.Linear(channels, len(COLOR_NAMES) + 1)
        self.place = nn.Linear(channels, 2 * CELLS) if with_place else None

    def place_loss(self, tokens: Tensor) -> Tensor:
        """Cross entropy of each token's own row and column; ``tokens`` are (frames, 36, channels)."""
        if self.place is None:
            raise ValueError("these heads were built without one for the token's place")
        cells = torch.arange(CELLS * CELLS, device=tokens.device).expand(len(tokens), -1).flatten()
        rows, cols = self.place(tokens).float().flatten(0, 1).chunk(2, dim=-1)
        return nn.functional.cross_entropy(rows, cells // CELLS) + nn.functional.cross_entropy(
            cols, cells % CELLS
        )

    def loss(self, tokens: Tensor, kinds: Tensor, colors: Tensor) -> Tensor:
        """Cross entropy over all tokens, background tokens weighted down; labels are (tokens,)."""
        weight = torch.ones(len(KINDS) + 1, device=tokens.device)
        weight[-1] = _BACKGROUND_WEIGHT
        color_weight = torch.ones(len(COLOR_NAMES) + 1, device=tokens.device)
        color_weight[-1] = _BACKGROUND_WEIGHT
        kind_loss = nn.functional.cross_entropy(self.kind(tokens).float(), kinds, weight)
        return kind_loss + nn.functional.cross_entropy(self.color(tokens).float(), colors, color_weight)


class ObjectLabels(nn.Module):
    """Throw-away head on the pooled feature: which kinds, colours and pairs are in the frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out = nn.Linear(channels, len(KINDS) + len(COLOR_NAMES) + len(KINDS) * len(COLOR_NAMES))

    def loss(self, pooled: Tensor, present: Tensor) -> Tensor:
        """Binary cross entropy summed over labels, averaged over frames; ``present`` is (frames, labels)."""
        losses = nn.functional.binary_cross_entropy_with_logits(
            self.out(pooled).float(), present, reduction="none"
        )
        return losses.sum(1).mean()


def object_labels(frames: list[tuple[Thing, ...]]) -> NDArray[np.float32]:
    """Multi-hot labels (frames, kinds + colours + pairs) of the objects seen in each frame."""
    pairs = len(KINDS) + len(COLOR_NAMES)
    present = np.zeros((len(frames), pairs + len(KINDS) * len(COLOR_NAMES)), np.float32)
    for row, things in enumerate(frames):
        for thing in things:
            kind, color = KINDS.index(thing.kind), COLOR_NAMES.index(thing.color)
            present[row, [kind, len(KINDS) + color, pairs + kind * len(COLOR_NAMES) + color]] = 1
    return present


def pixels(frames: NDArray[np.uint8]) -> Tensor:
    """Turn uint8 frames (n, 96, 96, 3) into the tower's input (n, 3, 96, 96) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)


def crowd_batch(first_seed: int, count: int, frames: int) -> list[LabelledFrame]:
    """``count`` crowded training slices of ``frames`` frames with consecutive seeds, 3 to 9 objects each."""
    return [
        crowd(seed, "train", objects=9 if seed % 4 else 3, frames=frames)
        for seed in range(first_seed, first_seed + count)
    ]


def dense_accuracy(labels: TokenLabels, tokens: Tensor, kinds: Tensor, colors: Tensor) -> dict[str, float]:
    """Accuracy of the throw-away heads on object tokens: shapes, digits, colours, and on background."""
    guess, guess_color = labels.kind(tokens).argmax(-1), labels.color(tokens).argmax(-1)
    shape, digit = kinds < 7, (kinds >= 7) & (kinds < BACKGROUND)
    right = (guess == kinds).float()
    return {
        "shape": float(right[shape].mean()),
        "digit": float(right[digit].mean()),
        "color": float((guess_color == colors).float()[shape | digit].mean()),
        "background": float(right[kinds == BACKGROUND].mean()),
    }
