"""What baselines share that spread their budget over the whole clip, or alike over every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from streamprune.errors import UnknownNameError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import VideoGrid

Within = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class WithinMethod(PreLLMMethod):
    """A method with a choice of what its budget is of; ``called`` is its name in errors."""

    called: ClassVar[str]
    within: Within = "clip"

    def __post_init__(self) -> None:
        if self.within not in get_args(Within):
            raise UnknownNameError.among(f"within of {self.called}", self.within, get_args(Within))
        if self.within == "frame":
            object.__setattr__(self, "causal", True)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The budget, of the clip or of every frame."""
        if self.within == "clip":
            return self.budget.tokens(grid.tokens)
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)
