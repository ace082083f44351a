"""What the contract has to know about one pre-LLM method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from streamprune.registry import get_method
from streamprune.tokens import VideoGrid

Tokens = Callable[[VideoGrid], int]


def nothing(grid: VideoGrid) -> int:
    """No token, on any grid."""
    return 0


def one_each_frame(grid: VideoGrid) -> int:
    """As many tokens as there are frames."""
    return grid.frames


@dataclass(frozen=True)
class Row:
    """One method under contract.

    Attributes:
        name: in the registry.
        options: what it is called with.
        merges: rows are made of several tokens (else every kept token is unchanged).
        sums: the weights of a row need not add up to 1, as released.
        repeats: a token may be kept twice, or a row be zero (index -1), as released.
        counts: ``count`` is a number on every grid (else it may be None where content decides).
        floor: the least that stays: one token of the video, one of each frame, everything, or a function of
            the grid.
        overshoot: tokens that the released rounding may keep beyond the budget on a grid.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    merges: bool = False
    sums: bool = False
    repeats: bool = False
    counts: bool = True
    floor: Literal["video", "frame", "all"] | Tokens = "video"
    overshoot: Tokens = nothing

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
        if callable(self.floor):
            return self.floor(grid)
        return {"video": 1, "frame": grid.frames, "all": grid.tokens}[self.floor]
