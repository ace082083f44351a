"""PyramidKV: SnapKV's choice, with more entries in the first layers than in the last."""

from __future__ import annotations

from dataclasses import dataclass

from streamprune.budget import whole_tokens
from streamprune.checks import check_flag, check_number
from streamprune.kv.snapkv import SnapKV
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class PyramidKV(SnapKV):
    """Share the budget out over the layers along a straight line, then choose as SnapKV does.

    The budget is what a layer keeps on average. Layers hold different numbers of entries, so calls with
    several tokens on a non-empty cache, and all calls with eager attention, need ``cache.watch(model)``.

    Args:
        window: last tokens of the prompt that vote and stay.
        kernel, pooling: see :class:`SnapKV`.
        beta: steepness, 1 or more: the last layer keeps about a ``beta``-th part of the average; 1 gives all
            layers the same.
        whole_steps: the same whole number of entries less from layer to layer, as released; the mean may then
            exceed the budget by up to half as many entries as there are layers.

    Source: arXiv 2406.02069, as in the kvpress library: shares are real numbers until each is rounded, half
    to even, and include the window; where the last layer would keep less than the window, or the first more
    than there is, all keep the same. ``whole_steps`` is the release: the window comes on top of the shares,
    and prompts of less than twice the budget, both without windows, leave all layers the same.
    """

    window: int = 64
    beta: float = 20.0
    whole_steps: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, 1.0, 1e6)
        check_flag("whole_steps", self.whole_steps)

    def limit(self, view: LayerView, entry_bytes: int) -> int:
        """This layer's share."""
        average = self.budget.exact_entries(view.prompt, entry_bytes, view.depth)
        share = layer_share_in_whole_steps if self.whole_steps else layer_share
        return share(
            average, view.prompt, window=self.window, beta=self.beta, layer=view.layer, layers=view.depth
        )


def layer_share(average: float, tokens: int, *, window: int, beta: float, layer: int, layers: int) -> int:
    """Entries that ``layer`` of ``layers`` keeps of ``tokens`` when ``average`` is their mean; at least 1."""
    smallest = average / beta
    largest = 2 * average - smallest
    if largest >= tokens - window:
        largest = tokens - window
        smallest = 2 * average - largest
    share = average
    if layers > 1 and tokens >= largest >= smallest >= window:
        share = largest - layer * (largest - smallest) / (layers - 1)
    return max(1, whole_tokens(share, rounding="half_even"))


def layer_share_in_whole_steps(
    average: float, tokens: int, *, window: int, beta: float, layer: int, layers: int
) -> int:
    """:func:`layer_share` with every step rounded down, the window apart; the mean may exceed ``average``."""
    whole = whole_tokens(average)
    share = whole - window
    if share <= 0 or layers == 1 or tokens < 2 * share:
        return max(1, whole)
    smallest = whole_tokens(share / beta)
    largest = 2 * share - smallest
    if largest >= tokens - window:
        largest = tokens - window
        smallest = 2 * share - largest
    return largest - layer * ((largest - smallest) // (layers - 1)) + window
