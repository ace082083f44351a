"""Every pre-LLM method that the contract is held against: one row per method or variant.

A new method adds one row here. Signals are made by name, so a method that needs a new kind of signal adds one
entry to ``SIGNALS`` as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from streamprune.registry import get_method
from streamprune.tokens import VideoGrid


@dataclass(frozen=True)
class Row:
    """One method under contract.

    Attributes:
        name: in the registry.
        options: what it is called with.
        merges: rows are made of several tokens (else every kept token is unchanged).
        counts: ``count`` is a number on every grid (else it may be None where content decides).
        floor: the least that stays: one token of the video, one of each frame, or everything.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    merges: bool = False
    counts: bool = True
    floor: Literal["video", "frame", "all"] = "video"

    @property
    def id(self) -> str:
        """The name pytest shows."""
        return "-".join([self.name, *(str(value) for value in self.options.values())])

    @property
    def needs(self) -> tuple[str, ...]:
        """Signals the registry says it reads."""
        return get_method("pre_llm", self.name).needs

    @property
    def causal(self) -> bool:
        """Whether the registry says it is usable on a live stream."""
        return get_method("pre_llm", self.name).causal

    def least(self, grid: VideoGrid) -> int:
        """Tokens that stay however small the budget is."""
        return {"video": 1, "frame": grid.frames, "all": grid.tokens}[self.floor]


ROWS = (
    Row("none", floor="all"),
    Row("random"),
    Row("random", {"seed": 7}),
    Row("stride"),
    Row("pool", merges=True, floor="frame"),
    Row("fastvid", merges=True, counts=False, floor="frame"),
    Row("fastvid", {"form": "llava_video"}, merges=True, floor="frame"),
    Row("fastvid", {"form": "qwen2_5_vl"}, merges=True, counts=False, floor="frame"),
    Row(
        "fastvid",
        {"anchor_in_mean": False, "anchors_from": "first"},
        merges=True,
        counts=False,
        floor="frame",
    ),
)


def _saliency(features: torch.Tensor) -> torch.Tensor:
    """(frames, rows, cols): how far a token is from its frame's mean."""
    spread = features.float() - features.float().mean((1, 2), keepdim=True)
    return spread.square().mean(-1)


def _frame_features(features: torch.Tensor) -> torch.Tensor:
    """(frames, channels) mean of each frame's tokens."""
    return features.float().mean((1, 2))


SIGNALS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "saliency": _saliency,
    "frame_features": _frame_features,
}


def signals_of(row: Row, features: torch.Tensor) -> dict[str, torch.Tensor]:
    """The signals ``row`` needs, made from ``features`` (frames, rows, cols, channels) frame by frame."""
    return {name: SIGNALS[name](features) for name in row.needs}


def clip(
    frames: int = 8, rows: int = 6, cols: int = 5, channels: int = 16, *, scene: int = 3
) -> torch.Tensor:
    """(frames, rows, cols, channels) float32 video-like features: scenes of ``scene`` alike frames."""
    generator = torch.Generator().manual_seed(frames * 1000 + rows * 100 + cols)
    scenes = torch.randn(-(-frames // scene), rows, cols, channels, generator=generator)
    drift = 0.2 * torch.randn(frames, rows, cols, channels, generator=generator)
    return scenes.repeat_interleave(scene, 0)[:frames] + drift
