"""SpAtten: tokens, and heads, that mattered least in all layers so far are left out, layer after layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, share_of
from streamprune.checks import check_share
from streamprune.in_llm.base import Decision, InLLMMethod, LayerProjections, PromptView
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.selection import highest, marked

_OURS = Budget(keep_ratio=0.3)
# rows whose attention is in memory at a time
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class _Sums:
    """(rows,) attention received and (key heads,) size of what heads came to, over the layers so far; and
    which key heads still count, (key heads,) bool."""

    tokens: torch.Tensor
    heads: torch.Tensor
    counting: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SpAtten(InLLMMethod):
    """Add up, layer by layer, what each token receives and what each head yields; drop the least of both.

    A token's sum grows by the attention that all rows pay it in the layer below, over the heads that count; a
    head's by the absolute values of its outputs there. What is dropped never comes back. The number of visual
    tokens falls in even steps, one at every cut, to ``keep_ratio`` (default 0.3) or ``keep_tokens`` after the
    last, rounded down but never to none; that of the heads likewise.

    Args:
        layers: the layers before which this is done, each by the layer below; None = all from 1 on.
        head_share: share of the key heads, with all query heads they serve, that counts above the last cut,
            in (0, 1]. Others are taken as 0 from then on, for this prompt and what follows it; that changes
            answers and saves no time.

    Ties go to the token further ahead, and to the lower head. All rows attend, so this takes the time of a
    full attention map in each layer that is read.

    Source: arXiv 2012.09852. Its shares are tuned for each task and not known; those here are ours. Only
    visual tokens are dropped, at the prompt and not again at every later token; dropping values for single
    queries and reading keys in fewer bits, meant for its hardware, are left out.
    """

    layers: tuple[int, ...] | None = None
    head_share: float = 1.0

    needs: ClassVar[tuple[str, ...]] = ("projections",)
    prunes_heads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        check_share("head_share", self.head_share)

    def keeps_everything(self, visual: int) -> bool:
        """Heads may go where no token does."""
        return self.head_share == 1 and super().keeps_everything(visual)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """As given, or all but the first."""
        return tuple(range(1, depth)) if self.layers is None else self.layers

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        sums = self._sums(view)
        part = (view.cut + 1) / len(self.cuts(view.depth))
        budget = self.budget if self.budget.is_given else _OURS
        share = 1 - (1 - budget.share(view.visual_at_first)) * part
        count = max(1, share_of(view.visual_at_first, share))
        heads = max(1, share_of(len(sums.heads), 1 - (1 - self.head_share) * part))
        ranked = sums.heads.masked_fill(~sums.counting, -1.0)
        counting = marked(highest(ranked, heads), len(ranked))
        kept = view.kept_with_text(highest(sums.tokens[view.visual], count))
        carried = _Sums(sums.tokens[kept], sums.heads, counting)
        return Decision(kept, carried=carried, heads=None if bool(counting.all()) else counting)

    def _sums(self, view: PromptView) -> _Sums:
        """With the layer below."""
        before: _Sums | None = view.carried
        keys = view.before.keys()
        counting = keys.new_ones(len(keys), dtype=torch.bool) if before is None else before.counting
        received, yielded = layer_sums(view.before, view.rows, counting)
        if before is None:
            return _Sums(received, yielded, counting)
        return _Sums(before.tokens + received, before.heads + yielded, counting)


def layer_sums(
    layer: LayerProjections, rows: int, counting: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows,) attention that each row receives, and (key heads,) absolute sum of what each head comes to.

    Args:
        rows: of the layer.
        counting: (key heads,) bool, the others give and come to nothing.
    """
    values = layer.values()
    received = values.new_zeros(rows)
    yielded = values.new_zeros(len(values))
    for block in torch.split(torch.arange(rows, device=values.device), _BLOCK_ROWS):
        attention = layer.attention(block)
        attention = attention.reshape(len(values), -1, *attention.shape[1:])
        received += (attention.sum((1, 2)) * counting[:, None]).sum(0)
        outputs = torch.einsum("kgqn,knd->kgqd", attention, values)
        yielded += outputs.abs().sum((1, 2, 3)) * counting
    return received, yielded
