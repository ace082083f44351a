"""What a pre-LLM method is: options, a count that needs no content, and one decision.

To add one: a file in this folder with a frozen keyword-only dataclass, a line in
``streamprune/catalog/pre_llm.py``, a row in a file of ``tests/contract/rows`` (and one in ``tests/goldens``
when released code was recorded).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from streamprune.budget import Budget
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


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
    """

    budget: Budget = field(default_factory=Budget)

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = False

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
