"""Muon for the matrices of the blocks, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_BLOCKS = (".layers.", ".blocks.", ".merger.mlp.")


class Optimiser:
    """Two optimisers stepped as one, with a learning rate given at every step."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            block = parameter.ndim == 2 and any(part in name for part in _BLOCKS)
            (matrices if block else others).append(parameter)
        self.parameters = [*matrices, *others]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
        ]
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=1e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
            )

    def step(self, learning_rate: float) -> None:
        """Clip the gradients to norm 1, update, and clear them."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> list[dict[str, Any]]:
        """State of both parts, for a checkpoint."""
        return [part.state_dict() for part in self.parts]

    def load(self, states: list[dict[str, Any]]) -> None:
        """Take up a state from a checkpoint."""
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def learning_rate(
    step: int, steps: int, peak: float, floor: float, warmup: int = 30, hold: float = 0.5
) -> float:
    """Rise over ``warmup`` steps, hold for the share ``hold`` of all, then fall linearly to ``floor``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = max(0.0, (step / steps - hold) / (1 - hold))
    return peak + (floor - peak) * min(1.0, share)
