"""What a pre-LLM method is: options, a count that needs no content, and one decision.

To add one: a file in this folder with a frozen keyword-only dataclass, a line in
``streamprune/catalog/pre_llm.py``, a row in a file of ``tests/contract/rows`` (and one in ``tests/goldens``
when released code was recorded).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self, TypeAlias

from streamprune.budget import Budget
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

if TYPE_CHECKING:
    import torch

# what the frames of a stream leave behind for those to come, by name; nothing before the first
History: TypeAlias = "Mapping[str, torch.Tensor]"


@dataclass(frozen=True, kw_only=True)
class PreLLMMethod(ABC):
    """A reducer between vision tower and language model.

    Subclasses add their options as fields (validated in ``__post_init__`` with InvalidValueError) and
    implement :meth:`reduce`.

    Args:
        budget: how much stays.

    Class attributes:
        needs: names of the signals :meth:`reduce` reads from ``VisualTokens.signals``.
        causal: usable on a live stream, without looking at later frames.
        instead_of_budget: options that say how much stays where no budget does.
    """

    budget: Budget = field(default_factory=Budget)

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False
    instead_of_budget: ClassVar[tuple[str, ...]] = ()

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Whether all tokens of ``grid`` stay, so that :meth:`reduce` need not be asked.

        A method that may be given a threshold in place of a budget overrides this.
        """
        return self.budget.tokens(grid.tokens) == grid.tokens

    def count(self, grid: VideoGrid) -> int | None:
        """Tokens that survive on ``grid``, or None when that depends on the content."""
        if self.keeps_everything(grid):
            return grid.tokens
        return self.count_reduced(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """:meth:`count` for a budget that drops something; override where the method rounds otherwise."""
        return self.budget.tokens(grid.tokens)

    @abstractmethod
    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Decide what stays of ``tokens``. Called only when not everything stays."""

    def clip_segments(self, tokens: VisualTokens) -> list[tuple[int, int]] | None:
        """The half-open frame ranges in which :meth:`reduce` decides; None for methods that cut no clip."""
        return None

    def step(
        self, tokens: VisualTokens, before: History, keep: int | None = None
    ) -> tuple[Reduction, History]:
        """Decide what stays of the next frames of a stream; for ``causal`` methods only.

        Steps through a clip, cut between any two frames, decide what :meth:`reduce` does for all of it. What
        stands here is for methods that look at each frame alone; others override it, and reduce a clip in one
        step from nothing.

        Args:
            before: what the last step returned, left unchanged; empty at the first.
            keep: at least 1; so many tokens of every frame, whatever the budget or a threshold says.

        Returns:
            The decision, and what the next step needs; it may share memory with ``tokens``.
        """
        grid = tokens.grid
        method = self if keep is None else self.with_count(keep * grid.frames)
        if method.keeps_everything(grid):
            return Reduction.identity(tokens), {}
        return method.reduce(tokens), {}

    def with_count(self, keep_tokens: int) -> Self:
        """The same method with ``keep_tokens`` for its budget, in place of whatever says how much stays."""
        instead = dict.fromkeys(self.instead_of_budget)
        return replace(self, budget=Budget(keep_tokens=keep_tokens), **instead)
