"""How strongly a function answers to small changes of its input, without its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.errors import InvalidValueError


def sensitivity(
    function: Callable[[torch.Tensor], torch.Tensor],
    inputs: torch.Tensor,
    *,
    directions: int = 64,
    step: float = 0.01,
    seed: int = 0,
) -> torch.Tensor:
    """Length of the change of ``function`` per length of a step, averaged over random directions.

    Differences are central: half the change between a step forward and one back. All rows are moved along the
    same directions, so that equal rows get equal values.

    Args:
        function: maps (rows, width) to (rows, anything), each row on its own.
        inputs: (rows, width) floating point; computed in float32.
        directions: how many, at least 1.
        step: length of a step, above 0.
        seed: of the directions.

    Returns:
        (rows,) float32, at least 0.

    Raises:
        InvalidValueError: an argument is outside its range.

    Source: the scorer of ZOO-Prune (CVPR 2026).
    """
    if inputs.ndim != 2 or 0 in inputs.shape:
        raise InvalidValueError(f"inputs must be (rows, width), not empty, got {tuple(inputs.shape)}")
    if directions < 1 or not step > 0:
        raise InvalidValueError(
            f"directions must be at least 1 and step above 0, got {directions!r} and {step!r}"
        )
    generator = torch.Generator("cpu").manual_seed(seed)
    # drawn on the CPU, so that every device moves along the same directions
    shape = (directions, inputs.shape[1])
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    moves = (step * drawn / drawn.norm(dim=1, keepdim=True)).to(inputs.device, torch.float32)
    rows = inputs.float()
    total = torch.zeros(len(rows), device=rows.device)
    for move in moves:
        change = function(rows + move) - function(rows - move)
        total += torch.linalg.vector_norm(change.flatten(1).float(), dim=1)
    return total / (2 * step * directions)
