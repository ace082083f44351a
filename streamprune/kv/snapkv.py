"""SnapKV: what the last tokens of the prompt look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.nn.functional import avg_pool1d, max_pool1d

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.kv.base import Decoding, Policy, always_above
from streamprune.kv.view import LayerView

Pooling = Literal["average", "max"]


@dataclass(frozen=True, kw_only=True)
class SnapKV(Policy):
    """Keep the entries that the last queries of the prompt attend to most, smoothed along the sequence.

    The question should stand within the window, at the end of the prompt; the window itself stays.

    Args:
        window: last tokens of the prompt that vote and stay, at least 1; fewer when less came.
        kernel: entries over which the votes are smoothed, odd.
        pooling: "average" or "max".

    Source: arXiv 2404.14469, with the window, the kernel and the average of the released defaults; votes of
        the
    query heads that share a key-value head are averaged, and entries stored once for them, as in the kvpress
    library (the release stores them for every query head). The answer's entries stay, as released
    (``decoding="grow"``); with "hold" each new token's query votes alone. A budget smaller than the window
    keeps the newest tokens.
    """

    window: int = 32
    kernel: int = 5
    pooling: Pooling = "average"
    decoding: Decoding = "grow"

    needs: ClassVar[tuple[str, ...]] = ("queries",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window", self.window)
        check_count("kernel", self.kernel)
        if self.kernel % 2 == 0:
            raise InvalidValueError(f"kernel must be odd, got {self.kernel}")
        if self.pooling not in get_args(Pooling):
            raise UnknownNameError.among("pooling", self.pooling, get_args(Pooling))

    def query_rows(self, new: int) -> int:
        """The window."""
        return min(self.window, new)

    def score(self, view: LayerView) -> torch.Tensor:
        """Mean attention from the window, pooled, averaged over the query heads of each head."""
        votes = self.votes(view)
        scores = votes.new_zeros(view.tokens.shape)
        scores[..., : votes.shape[-1]] = votes.mean(2)
        return always_above(scores, view.newest(self.window))

    def votes(self, view: LayerView) -> torch.Tensor:
        """(b, h, H / h, entries before the window) pooled mean attention, by query head."""
        rows = view.attention(self.window)
        votes = rows.sum(-2)[..., : rows.shape[-1] - rows.shape[-2]] / rows.shape[-2]
        return self._pool(votes) if votes.shape[-1] else votes

    def _pool(self, votes: torch.Tensor) -> torch.Tensor:
        """Smooth the last axis; beyond its ends are zeros."""
        pool = avg_pool1d if self.pooling == "average" else max_pool1d
        pooled: torch.Tensor = pool(votes.flatten(0, 2)[:, None], self.kernel, 1, self.kernel // 2)
        return pooled[:, 0].reshape(votes.shape)
