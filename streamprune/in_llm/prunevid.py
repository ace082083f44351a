"""PruneVid's selection: every frame keeps its share of the tokens that the question looks at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, share_of, split_by_weight
from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.ops.attention_rows import attention_rows
from streamprune.ops.selection import highest, marked

# alpha of the paper and the release
_RELEASED = Budget(keep_ratio=0.4)


@dataclass(frozen=True, kw_only=True)
class PruneVidInner(InLLMMethod):
    """Score visual tokens by the most attention any head of any row behind the video pays them.

    As released, the attention is that before the rotary embedding, over all rows, later ones too; and each
    group of tokens keeps the best of its own: ``keep_ratio`` (default 0.4) of them, rounded down, which may
    be none of a small group. ``keep_tokens`` is shared out over the groups by their size. A prompt keeps at
    least one visual token.

    Args:
        layer: the layer before which tokens are dropped; the attention is that of the layer below. None = 11
            of 32, scaled to the depth.
        group_sizes: sizes of the groups, one after another in the order of the prompt. None: a group is what
            is there of a frame, or all visual tokens where they are not those of one video.
        as_released: False gives the paper's form: attention as the layer computes it, and the best of all
            tokens together, of ``keep_ratio`` rounded up.

    Ties go to the token further ahead.

    Source: arXiv 2412.16117 and its release for PLLaVA. There the groups are those of its merging before the
    language model (what stands still in a segment, what moves in a frame), which ``group_sizes`` can name;
    it works without grouped keys only, here each key serves its query heads; and it also takes the dropped
    tokens out of the lower layers' cache, which is left alone here.
    """

    layer: int | None = None
    group_sizes: tuple[int, ...] | None = None
    as_released: bool = True

    needs: ClassVar[tuple[str, ...]] = ("projections",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("as_released", self.as_released)
        if self.layer is not None:
            check_count("layer", self.layer)
        if self.group_sizes is None:
            return
        if isinstance(self.group_sizes, str) or not isinstance(self.group_sizes, Sequence):
            raise InvalidTypeError(
                f"group_sizes must be a list of numbers of tokens, got {self.group_sizes!r}"
            )
        for size in self.group_sizes:
            check_count("group_sizes", size, least=0)
        if not self.as_released:
            raise InvalidValueError(
                "group_sizes must be left out with as_released=False, which knows no groups"
            )
        object.__setattr__(self, "group_sizes", tuple(self.group_sizes))

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(11, 32, depth) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        budget = self.budget if self.budget.is_given else _RELEASED
        scores = self.scores(view)
        if self.as_released:
            chosen = best_of_groups(scores, self.groups(view), budget)
        else:
            chosen = highest(scores, budget.tokens(len(scores), rounding="ceil"))
        return Decision(view.kept_with_text(chosen))

    def scores(self, view: PromptView) -> torch.Tensor:
        """(visual,) the largest attention over heads and the rows behind the video."""
        layer = view.before
        if self.as_released:
            queries, keys = layer.queries(view.after, rotated=False), layer.keys(rotated=False)
            attention = attention_rows(queries, keys, layer.scaling)
        else:
            attention = layer.attention(view.after)
        return attention[:, :, view.visual].amax((0, 1))

    def groups(self, view: PromptView) -> torch.Tensor:
        """(visual,) int64 number of each visual token's group, ascending."""
        visual = view.visual
        if self.group_sizes is not None:
            if sum(self.group_sizes) != len(visual):
                raise InvalidValueError(
                    f"group_sizes must add up to the {len(visual)} visual tokens of the prompt, got "
                    f"{sum(self.group_sizes)}"
                )
            sizes = torch.tensor(self.group_sizes, device=visual.device)
            return torch.repeat_interleave(torch.arange(len(sizes), device=visual.device), sizes)
        if view.grid is None or view.places is None:
            return torch.zeros_like(visual)
        return view.grid.places(view.places)[0]


def best_of_groups(scores: torch.Tensor, group: torch.Tensor, budget: Budget) -> torch.Tensor:
    """(chosen,) int64 the best of every group, ascending; the best of all where no group keeps any.

    Args:
        scores: (tokens,).
        group: (tokens,) int64 number of each token's group, ascending.
    """
    sizes = torch.bincount(group).tolist()
    if budget.keep_tokens is None:
        share = budget.share(len(scores))
        counts = [share_of(size, share, rounding="truncate") for size in sizes]
    else:
        counts = split_by_weight(budget.tokens(len(scores)), sizes, sizes)
    if not any(counts):
        return highest(scores, 1)
    parts = torch.split(scores, sizes)
    best = [marked(highest(part, count), len(part)) for part, count in zip(parts, counts, strict=True)]
    return torch.cat(best).nonzero()[:, 0]
