"""Prompts between two layers, made of random numbers, and attention written out in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from streamprune.in_llm.base import LayerProjections, PromptView
from streamprune.ops.rotary import rotate
from streamprune.tokens import VideoGrid

Array = npt.NDArray[Any]


class MadeProjections(LayerProjections):
    """Random queries and keys of ``rows`` rows; rotation by the row's number."""

    def __init__(self, rows: int, seed: int, heads: int = 4, key_heads: int = 2, dim: int = 8) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.all_queries = torch.randn(heads, rows, dim, generator=generator)
        self.all_keys = torch.randn(key_heads, rows, dim, generator=generator)
        angles = torch.arange(rows)[:, None] * 0.5 ** torch.arange(dim // 2)
        self.angles = torch.cat([angles, angles], -1)
        self.scaling = dim**-0.5

        self.states = torch.randn(rows, 16, generator=generator)
        self.all_values = torch.randn(key_heads, rows, dim, generator=generator)

    def normed(self) -> torch.Tensor:
        return self.states

    def values(self) -> torch.Tensor:
        return self.all_values

    def queries(self, rows: torch.Tensor, *, rotated: bool = True) -> torch.Tensor:
        plain = self.all_queries[:, rows]
        return rotate(plain, self.angles[rows].cos(), self.angles[rows].sin()) if rotated else plain

    def keys(self, *, rotated: bool = True) -> torch.Tensor:
        return rotate(self.all_keys, self.angles.cos(), self.angles.sin()) if rotated else self.all_keys


def made_view(
    tokens: int = 24,
    before: int = 5,
    after: int = 4,
    seed: int = 0,
    grid: VideoGrid | None = None,
    **fields: Any,
) -> PromptView:
    """Text, ``tokens`` visual tokens, text; every one of ``fields`` may be replaced."""
    rows = before + tokens + after
    given: dict[str, Any] = {
        "layer": 2,
        "cut": 0,
        "depth": 8,
        "states": torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed + 100)),
        "embeds": torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed + 400)),
        "visual": torch.arange(before, before + tokens),
        "places": None if grid is None else torch.arange(tokens),
        "grid": grid,
        "visual_at_first": tokens,
        "before": MadeProjections(rows, seed + 200),
        "at": MadeProjections(rows, seed + 300),
    }
    return PromptView(**{**given, **fields})


def numpy_attention(layer: MadeProjections, *, rotated: bool = True) -> Array:
    """(heads, rows, rows) float64 causal attention."""
    rows = layer.all_keys.shape[1]
    queries = layer.queries(torch.arange(rows), rotated=rotated).double().numpy()
    keys = layer.keys(rotated=rotated).double().numpy()
    keys = np.repeat(keys, len(queries) // len(keys), axis=0)
    scores = queries @ keys.transpose(0, 2, 1) * layer.scaling
    scores[:, np.triu_indices(rows, 1)[0], np.triu_indices(rows, 1)[1]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    attention: Array = weights / weights.sum(-1, keepdims=True)
    return attention


def text_and(view: PromptView, chosen: Array) -> list[int]:
    """Ascending rows: all text and the visual tokens ``chosen``."""
    visual = view.visual.tolist()
    return sorted({*range(view.rows)} - {*visual} | {visual[number] for number in chosen})
