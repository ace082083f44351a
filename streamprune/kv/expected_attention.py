"""Expected attention: what queries still to come would attend to, if they were like those of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_flag
from streamprune.kv.base import Decoding, Policy, always_above
from streamprune.kv.view import LayerView
from streamprune.ops.rotary import rotate


@dataclass(frozen=True, kw_only=True)
class ExpectedAttention(Policy):
    """Keep the entries with the largest expected attention of future queries, times the norm of their values.

    The prompt's queries before rotation are taken for a Gaussian. Turned by the mean rotation of the
    positions to come it gives the mean logarithm of the attention to each key. No question is read, so a
    video can be reduced before there is one.

    Args:
        future: positions to come that are averaged over, at least 1.
        sinks: first tokens that stay and whose queries are left out, 0 or more.
        covariance: use the spread of the queries and not only their mean.
        value_norm: weigh by the norms of the values.

    Source: arXiv 2510.00636, as in the kvpress library. While an answer is decoded its tokens stay and what
        the
    prompt's entries were found to be worth holds on. A prompt no longer than the sinks uses all its queries.
    """

    future: int = 512
    sinks: int = 4
    covariance: bool = True
    value_norm: bool = True
    decoding: Decoding = "grow"

    needs: ClassVar[tuple[str, ...]] = ("queries",)
    unrotated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("future", self.future)
        check_count("sinks", self.sinks, least=0)
        check_flag("covariance", self.covariance)
        check_flag("value_norm", self.value_norm)

    def query_rows(self, new: int) -> int:
        """All of a prompt; a single token of an answer says nothing about spread."""
        return new if new > 1 else 0

    def observe(self, view: LayerView) -> Mapping[str, torch.Tensor]:
        """What each entry is expected to receive, found anew with every prompt."""
        if view.queries is None:
            return {
                "expected": view.state.get(
                    "expected", torch.zeros(view.tokens.shape, device=view.keys.device)
                )
            }
        return {"expected": self._expected(view)}

    def score(self, view: LayerView) -> torch.Tensor:
        """Expected attention; sinks and the answer's tokens above."""
        scores = always_above(view.state["expected"], view.oldest(self.sinks))
        return always_above(scores, view.newest(view.seen - view.prompt))

    def _expected(self, view: LayerView) -> torch.Tensor:
        keys, dim = view.keys.float(), view.keys.shape[-1]
        mean, spread = self._future_queries(view)
        logits = torch.einsum("bhgd,bhnd->bhgn", mean, keys) / dim**0.5
        if self.covariance:
            turned = torch.einsum("bhnd,bhgde->bhgne", keys, spread)
            logits = logits + (turned * keys[:, :, None]).sum(-1) / (2 * dim)
        left_out = (view.oldest(self.sinks) | view.hidden)[:, :, None]
        # with nothing but sinks there is nothing to compare
        left_out = left_out & ~left_out.all(-1, keepdim=True)
        expected = torch.softmax(logits.masked_fill(left_out, -torch.inf), -1).mean(2)
        if self.value_norm:
            expected = expected * torch.linalg.vector_norm(view.values.float(), dim=-1)
        return expected

    def _future_queries(self, view: LayerView) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, h, H / h, dim) mean and (b, h, H / h, dim, dim) covariance of the queries to come."""
        queries = view.grouped_queries()
        tokens = view.tokens[:, :, None, -queries.shape[-2] :]
        counted = tokens >= self.sinks
        counted = torch.where(counted.any(-1, keepdim=True), counted, tokens >= 0)[..., None]
        number = counted.sum(-2, keepdim=True).clamp(min=1)
        mean = (queries * counted).sum(-2, keepdim=True) / number
        apart = (queries - mean) * counted
        spread = apart.transpose(-1, -2) @ apart / number
        cos, sin = (table[:, None, None, None] for table in view.mean_turn(self.future))
        # a rotation on both sides: once along the rows, once along the columns
        spread = rotate(rotate(spread, cos, sin).transpose(-1, -2), cos, sin)
        return rotate(mean, cos, sin)[..., 0, :], spread
