"""The attention of one tower layer, a few rows at a time: the whole map is never held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

# scores of one block of rows: 4 MB in float32 stay in a CPU's cache; accelerators want fewer, larger blocks
_BLOCK_SCORES, _LARGE_BLOCK_SCORES = 2**20, 2**25


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """What the tokens of one layer attended to, computed again from its queries and keys.

    Args:
        queries, keys: (frames, heads, tokens, dim).
        scaling: factor of their inner products.
        bias: (frames, tokens) added to the logits of each key, None = nothing.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scaling: float
    bias: torch.Tensor | None = None

    def blocks(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Yield (frames, queries, attention): float32 rows (some frames, heads, some queries, tokens)."""
        frames, heads, tokens, _ = self.queries.shape
        room = _BLOCK_SCORES if self.keys.device.type == "cpu" else _LARGE_BLOCK_SCORES
        rows = max(1, min(tokens, room // (heads * tokens)))
        step = max(1, room // (heads * tokens * rows))
        for first in range(0, frames, step):
            some = slice(first, min(first + step, frames))
            keys = self.keys[some].float().mT * self.scaling
            bias = None if self.bias is None else self.bias[some, None, None].float()
            for row in range(0, tokens, rows):
                which = slice(row, min(row + rows, tokens))
                logits = self.queries[some, :, which].float() @ keys
                yield some, which, torch.softmax(logits if bias is None else logits + bias, -1)

    def received(self, share: torch.Tensor | None = None) -> torch.Tensor:
        """(frames, heads, tokens) float32: what each token gets when every query gives out its share.

        Args:
            share: (frames, heads, tokens) of each query; None = 1 / tokens, the mean over queries.
        """
        frames, heads, tokens, _ = self.keys.shape
        total = torch.zeros(frames, heads, tokens, device=self.keys.device)
        if share is None:
            share = torch.full_like(total, 1 / tokens)
        for some, rows, attention in self.blocks():
            total[some] += torch.matmul(share[some, :, None, rows], attention)[:, :, 0]
        return total

    def received_and_own(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(frames, heads, tokens) each: the mean a token receives, and what it gives itself."""
        frames, heads, tokens, _ = self.keys.shape
        total = torch.zeros(frames, heads, tokens, device=self.keys.device)
        own = torch.zeros_like(total)
        for some, rows, attention in self.blocks():
            total[some] += attention.sum(2)
            own[some, :, rows] = attention[..., rows].diagonal(dim1=-2, dim2=-1)
        return total / tokens, own
