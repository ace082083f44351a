"""What one architecture does its own way when it is trained: its tower, its positions, its files.

Everything else of the training (world, stages, packing, dropping, losses) is the same for all.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig

from streamprune.embedded.train.packing import Frame
from streamprune.embedded.train.pooling_head import PoolingHead, save_head
from streamprune.embedded.train.tokenizer import END, PAD, START, VIDEO
from streamprune.embedded.world.clips import by_slice
from streamprune.embedded.world.draw import CELLS

TOKENS_PER_SLICE = CELLS * CELLS


class Architecture(ABC):
    """A stock model class at the embedded size, and how the training drives its parts.

    A *slice* is what the tower turns into one grid of 36 tokens: one frame or several.

    Attributes:
        model_type: as in ``config.json``.
        slice_frames: frames of a slice; a clip whose last slice is not full shows its last frame again.
        axes: of the positions in the language model.
        frame: the words around the visual tokens.
        tower: how the names of the tower's parameters begin.
        projector: the same for what turns patches into tokens.
        placed_by_tower: whether a token's features tell where it stands (asked of them in training); if not,
            the language model is asked.
        renumber_share: of the clips that lose tokens, how many get new positions.
        uneven_times: whether slices may be of any distance in time from one another.
        stretches: times of a clip are multiplied by one of these in training, each as often.
    """

    model_type: ClassVar[str]
    slice_frames: ClassVar[int]
    axes: ClassVar[int]
    frame: ClassVar[Frame]
    tower: ClassVar[tuple[str, ...]]
    projector: ClassVar[tuple[str, ...]]
    placed_by_tower: ClassVar[bool]
    renumber_share: ClassVar[float]
    uneven_times: ClassVar[bool]
    stretches: ClassVar[tuple[int, ...]]

    @abstractmethod
    def build(self) -> Any:
        """The model with random weights from the global torch generator."""

    @abstractmethod
    def pooling_head(self) -> PoolingHead | None:
        """A new pooling head, None where the family has no use for one."""

    @abstractmethod
    def patches(self, model: Any, frames: Tensor) -> Tensor:
        """Patch features (slices, 144, channels) of prepared frames (slices * slice_frames, 3, 96, 96)."""

    @abstractmethod
    def tokens(self, model: Any, patches: Tensor) -> Tensor:
        """The visual tokens of the language model (slices, 36, channels) from patch features."""

    @abstractmethod
    def columns(self, model: Any, visual: Tensor) -> Tensor:
        """What stands in the prompt for kept tokens (clips, kept, channels): those, and what comes along."""

    @abstractmethod
    def positions(self, slots: Sequence[int], kept: NDArray[np.int64], renumber: bool) -> NDArray[np.int64]:
        """Positions (axes, columns) of a clip's columns.

        Args:
            slots: time slot of each shown frame.
            kept: flat indices of the tokens kept, over slices.
            renumber: whether to count 0, 1, 2, ... over what is kept.
        """

    @abstractmethod
    def text_start(self, positions: NDArray[np.int64], renumber: bool) -> int:
        """Position of the first word behind a clip whose columns stand at ``positions``."""

    @abstractmethod
    def stock_inputs(self, ids: Sequence[int], frames: Tensor) -> dict[str, Tensor]:
        """What stock ``generate()`` takes for a prompt with one placeholder and a clip's prepared frames."""

    @abstractmethod
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Contents of the JSON files beside the model: what its stock processor reads."""

    @abstractmethod
    def save_model(self, folder: Path, model: Any) -> None:
        """Write config, weights and tokenizer."""

    def slices(self, frames: int) -> int:
        """Slices of a clip of so many frames."""
        return -(-frames // self.slice_frames)

    def fill(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One clip's frames, the last repeated until the last slice is full."""
        missing = -len(frames) % self.slice_frames
        return np.concatenate([frames, *[frames[-1:]] * missing]) if missing else frames

    def per_slice(self, coverage: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coverage (things, frames, 36) to (things, slices, 36): the most in any frame of a slice."""
        return by_slice(coverage, self.slice_frames)

    def save(self, folder: Path, model: Any, head: PoolingHead | None) -> None:
        """Write model, tokenizer, processor files and pooling head as one folder for ``from_pretrained``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save_model(folder, model)
        for name, content in self.files().items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        if head is not None:
            save_head(folder, head)


def generation_config() -> GenerationConfig:
    """Greedy answers that end with the end token."""
    return GenerationConfig(
        bos_token_id=START, eos_token_id=END, pad_token_id=PAD, do_sample=False, max_new_tokens=16
    )


def with_placeholders(ids: Sequence[int], count: int) -> Tensor:
    """A prompt (1, length) with ``count`` video placeholders in place of its one."""
    place = list(ids).index(VIDEO)
    return torch.tensor([[*ids[:place], *[VIDEO] * count, *ids[place + 1 :]]])
