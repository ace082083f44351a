"""LagKV: entries that stand out against the entries that came right after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.checks import check_count
from streamprune.kv.base import Policy, always_above
from streamprune.kv.view import LayerView
from streamprune.ops.selection import lowest


@dataclass(frozen=True, kw_only=True)
class LagKV(Policy):
    """Score blocks of entries by how uneven their channels are on the scale of the next block.

    Each block is put on the scale (smallest to largest value, channel by channel) of the one behind it; a
    token whose channels then spread widely is something new. Ranks inside a block make the scores, so that
    all blocks lose alike; the first tokens, the last whole block and what is left over stay.

    Args:
        sinks: tokens at the beginning that stay, 0 or more.
        lag: entries of a block, 2 or more; for video, the tokens of a frame let it be judged by the next.
        across_blocks: compare the scores themselves, not ranks, so that blocks may lose differently.

    Source: arXiv 2504.04704, as in the kvpress library. Fewer entries than the sinks and two blocks are
        kept by
    age. A channel in which the next block does not vary counts for nothing, where the release divides by
    zero. Blocks are counted through padding.
    """

    sinks: int = 4
    lag: int = 128
    across_blocks: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("sinks", self.sinks, least=0)
        check_count("lag", self.lag, least=2)

    def score(self, view: LayerView) -> torch.Tensor:
        """Ranks from 0 to below 1, or sums of two softmaxes; what always stays is above."""
        held, sinks, lag = view.held, self.sinks, self.lag
        entries = torch.arange(held, device=view.keys.device)
        if held < sinks + 2 * lag:
            age = (entries - sinks).float() / max(1, held - sinks)
            # of the sinks, the first goes last
            return torch.where(entries < sinks, 1.0 + sinks - entries, age).expand(view.tokens.shape)
        end = sinks + (held - sinks) // lag * lag
        blocks = [
            _spread(rows[:, :, sinks:end].float().reshape(*rows.shape[:2], -1, lag, rows.shape[-1]))
            for rows in (view.keys, view.values)
        ]
        scores = (blocks[0] + blocks[1]) / 2
        if not self.across_blocks:
            scores = lowest(lowest(scores, lag), lag).float() / lag
        spread = scores.flatten(2)
        whole = spread.new_zeros(view.tokens.shape)
        whole[:, :, sinks : end - lag] = spread
        stays = (entries < sinks) | (entries >= end - lag)
        return always_above(whole, stays.expand(whole.shape))


def _spread(blocks: torch.Tensor) -> torch.Tensor:
    """(b, h, blocks - 1, lag) from (b, h, blocks, lag, dim): softmax of each block's channel deviations."""
    low, high = (limit[:, :, 1:, None] for limit in (blocks.amin(3), blocks.amax(3)))
    width = high - low
    scaled = torch.where(width > 0, (blocks[:, :, :-1] - low) / width.where(width > 0, 1.0), 0.0)
    return torch.softmax(scaled.std(-1), -1)
