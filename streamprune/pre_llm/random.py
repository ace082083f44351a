"""The baseline every method has to beat: tokens drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.errors import InvalidValueError
from streamprune.pre_llm.base import History
from streamprune.pre_llm.within import WithinMethod
from streamprune.tokens import Reduction, VisualTokens


@dataclass(frozen=True, kw_only=True)
class RandomTokens(WithinMethod):
    """Keep tokens drawn uniformly without replacement.

    Args:
        seed: 0 to 2**64 - 1; the same seed, grid and budget draw the same tokens on every machine and device.
        within: they are drawn from the whole ``clip``, or as many from every ``frame``, which needs no later
            frame; such an instance has ``causal`` set.
    """

    called: ClassVar[str] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**64:
            raise InvalidValueError(f"seed must be a non-negative integer below 2**64, got {self.seed!r}")
        super().__post_init__()

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Draw on the CPU, so that an accelerator's generator cannot change the choice."""
        if self.within == "frame":
            return self.step(tokens, {})[0]
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(tokens), generator=generator)[: self.budget.tokens(len(tokens))]
        return Reduction.select(tokens, drawn.sort().values.to(tokens.features.device))

    def step(
        self, tokens: VisualTokens, before: History, keep: int | None = None
    ) -> tuple[Reduction, History]:
        """Draw frame by frame, going on where the step before has stopped."""
        frames, in_frame = tokens.grid.frames, tokens.grid.tokens_per_frame
        generator = torch.Generator().manual_seed(self.seed)
        if before:
            generator.set_state(before["drawn"])
        count = self.budget.per_frame(frames, in_frame) if keep is None else min(keep, in_frame)
        drawn = torch.stack([torch.randperm(in_frame, generator=generator)[:count] for _ in range(frames)])
        index = (drawn.sort(1).values + torch.arange(frames)[:, None] * in_frame).flatten()
        return Reduction.select(tokens, index.to(tokens.features.device)), {"drawn": generator.get_state()}
