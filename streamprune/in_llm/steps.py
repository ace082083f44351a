"""What a method is that lets the whole prompt go up and chooses anew at every step of decoding."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from streamprune.in_llm.base import Decision, InLLMMethod, PromptView


@dataclass(frozen=True, eq=False)
class StepView:
    """One new token of one prompt, on its way up the language model.

    Attributes:
        attention: (heads, entries) float32 what the layer below gives to every entry of the cache, 0 for
            padding; the new token is the last entry.
        visual: (visual,) int64 entries that are visual tokens, ascending, at least one.
        carried: what the method handed on from the last step that it decided about.
    """

    attention: torch.Tensor = field(repr=False)
    visual: torch.Tensor = field(repr=False)
    carried: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class StepDecision:
    """What a method decided about one step.

    Args:
        chosen: (chosen,) int64 which of the visual tokens are attended to from here up in this step, counted
            from 0, ascending; None: all.
        carried: handed on to the next step.
    """

    chosen: torch.Tensor | None
    carried: Any = None


@dataclass(frozen=True, kw_only=True)
class StepMethod(InLLMMethod):
    """Lets a new token attend to some of the visual tokens; all stay in the cache and can be chosen again.

    :meth:`cuts` names one layer: the choice is made before it and holds for it and all above.
    """

    can_compact: ClassVar[bool] = False

    @abstractmethod
    def step(self, view: StepView) -> StepDecision:
        """Decide what one new token attends to; changes nothing that it is given."""

    def decide(self, view: PromptView) -> Decision:
        """The prompt goes up whole."""
        return Decision(torch.arange(view.rows, device=view.visual.device), done=True)
