"""LVLM_CSP, first stage: a few representatives of every frame stand for all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.ops.selection import highest
from streamprune.pre_llm.base import History, PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Representatives = Literal["uniform", "random", "saliency"]


@dataclass(frozen=True, kw_only=True)
class LVLMCSP(PreLLMMethod):
    """Keep equally many representatives of each frame, unchanged; the others are dropped.

    Args:
        representatives: ``uniform`` = every n-th token of the frame from its first, n being its tokens over
            its budget, rounded down; ``random`` = drawn without replacement; ``saliency`` = the most salient
            ones, which needs ``saliency`` (frames, rows, cols).
        seed: only with ``random``: 0 to 2**64 - 1; equal on every machine and device.

    Source: arXiv 2504.10854; no code was found. The paper lets the representatives alone pass the first
    layers of the language model, brings the other tokens back in the next and drops most by the attention
    of the answer's mask token in the last; before the language model only the first is possible, and it is
    for all layers. Its fourth choice, representatives in proportion to detected objects, needs a detector.
    """

    representatives: Representatives = "uniform"
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choices = get_args(Representatives)
        if self.representatives not in choices:
            raise UnknownNameError.among("representatives of lvlm_csp", self.representatives, choices)
        check_count("seed", self.seed, least=0)
        if self.seed >= 2**64:
            raise InvalidValueError(f"seed must be below 2**64, got {self.seed}")
        if self.seed and self.representatives != "random":
            raise InvalidValueError("seed belongs to representatives='random' only; leave it out")
        if self.representatives == "saliency":
            object.__setattr__(self, "needs", ("saliency",))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Choose in all frames."""
        return self.step(tokens, {})[0]

    def step(
        self, tokens: VisualTokens, before: History, keep: int | None = None
    ) -> tuple[Reduction, History]:
        """The same; random representatives are drawn from where the step before has stopped."""
        grid, after = tokens.grid, dict(before)
        frames, in_frame = grid.frames, grid.tokens_per_frame
        device = tokens.features.device
        count = self.budget.per_frame(frames, in_frame) if keep is None else min(keep, in_frame)
        if self.representatives == "saliency":
            saliency = tokens.signal("saliency", (frames, grid.rows, grid.cols))
            chosen = highest(saliency.float().flatten(1), count).sort(1).values
        elif self.representatives == "random":
            # drawn on the CPU: an accelerator's generator draws others
            generator = torch.Generator().manual_seed(self.seed)
            if before:
                generator.set_state(before["drawn"])
            drawn = [torch.randperm(in_frame, generator=generator)[:count] for _ in range(frames)]
            after["drawn"] = generator.get_state()
            chosen = torch.stack(drawn).sort(1).values.to(device)
        else:
            chosen = torch.arange(count, device=device).expand(frames, -1) * (in_frame // count)
        first = torch.arange(frames, device=device)[:, None] * in_frame
        return Reduction.select(tokens, (chosen + first).flatten()), after
