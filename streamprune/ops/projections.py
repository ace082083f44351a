"""Queries and keys of a stock attention module, made once more from what goes into it."""

from __future__ import annotations

from typing import Any

import torch


@torch.no_grad()
def heads_of(attention: Any, which: str, states: torch.Tensor) -> torch.Tensor:
    """(..., heads, head width) float32 queries ("q"), keys ("k") or values ("v") of ``states`` (..., width).

    They are not rotated.

    Args:
        attention: has ``q_proj`` and ``k_proj``, ``head_dim``, and ``q_norm`` and ``k_norm`` where it
            normalises each head. Where a gate for the output comes with each head's query (Qwen3.5), behind
            it, the gate is left out.
    """
    width = int(attention.head_dim)
    rows = getattr(attention, f"{which}_proj")(states)
    out = getattr(attention, "o_proj", None)
    gated = which == "q" and out is not None and rows.shape[-1] == 2 * out.in_features
    rows = rows.unflatten(-1, (-1, 2 * width))[..., :width] if gated else rows.unflatten(-1, (-1, width))
    norm = getattr(attention, f"{which}_norm", None)
    projected: torch.Tensor = rows if norm is None else norm(rows)
    return projected.float()
