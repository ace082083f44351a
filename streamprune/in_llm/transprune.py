"""TransPrune: visual tokens that layers still change stay, and those that the question looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_flag
from streamprune.in_llm.base import Decision, PartCall, PromptView
from streamprune.in_llm.stages import StagedMethod
from streamprune.ops.selection import highest

_PARTS = ("self_attn", "mlp")


@dataclass(frozen=True, kw_only=True)
class TransPrune(StagedMethod):
    """Score tokens by how the parts of the layers change them, and by the attention of the text.

    Change: an attention or feed-forward part gives a row something that is longer or shorter than what it got
    (both norms' quotient) and points elsewhere (1 - cosine). The softmax of the latter over all rows, times
    the former, is the row's change; changes add up over both parts and the layers from the one below the
    first cut on. Attention: what the rows behind the video give in the layer below, mean over heads and rows.
    Both are divided by their sums over the visual tokens at hand and added.

    Args:
        layers: the layers before which tokens are dropped; None = 8, 10 and 13 of 32 (after layers 7, 9 and
            12), scaled to the depth.
        shares: share of the ORIGINAL visual tokens kept at each of them; None = 0.875, 0.625 and 0.125. With
            ``keep_ratio`` or ``keep_tokens`` the shares fall by the same factor at every layer, to what is
            left after the last.
        absolute: the paper's form, with the cosine's absolute value; as released, what is turned round has
            changed most.

    Numbers of tokens are rounded down, never less than one but for a share of 0. Ties go to the token further
    ahead.

    Source: arXiv 2507.20630 and its release for LLaVA. There changes are summed over the prompts of a batch,
    and positions numbered anew after a cut; here prompts are apart and tokens keep their places.
    """

    absolute: bool = False

    needs: ClassVar[tuple[str, ...]] = ("attention", "parts")
    published: ClassVar[tuple[tuple[int, float], ...]] = ((8, 0.875), (10, 0.625), (13, 0.125))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("absolute", self.absolute)

    def watched(self, depth: int) -> tuple[tuple[int, str], ...]:
        """Both parts of every layer from below the first cut to below the last."""
        cuts = self.cuts(depth)
        return tuple((layer, part) for layer in range(cuts[0] - 1, cuts[-1]) for part in _PARTS)

    def watch(self, call: PartCall) -> torch.Tensor:
        """(rows,) float32 how much the part changes each row."""
        return change(call.entered, call.left, absolute=self.absolute)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        count = self.count(view.cut, view.depth, view.visual_at_first)
        return Decision(view.kept_with_text(highest(self.scores(view), count)))

    def scores(self, view: PromptView) -> torch.Tensor:
        """(visual,) float32 share of the change plus share of the attention; both sum to 1."""
        changed = torch.stack([seen[view.visual] for seen in view.watched.values()]).sum(0)
        looked_at = view.before.attention(view.after)[:, :, view.visual].mean((0, 1))
        return _shares(changed) + _shares(looked_at)


def change(entered: torch.Tensor, left: torch.Tensor, *, absolute: bool) -> torch.Tensor:
    """(rows,) float32 quotient of the norms of (rows, width), times a softmax over rows of 1 - cosine."""
    entered, left = entered.float(), left.float()
    norm, grown = (torch.linalg.vector_norm(rows, dim=-1) for rows in (entered, left))
    cosine = torch.nan_to_num((entered * left).sum(-1) / (norm * grown), nan=0.0)
    turned = torch.softmax(1 - (cosine.abs() if absolute else cosine), 0)
    return turned * torch.where(norm > 0, grown / norm, 0.0)


def _shares(values: torch.Tensor) -> torch.Tensor:
    total = values.sum()
    return torch.where(total > 0, values / total, 0.0)
