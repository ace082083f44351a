"""SafeWatch: every policy of a guideline picks the visual tokens it looks at, as many as it matters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, split_by_weight
from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.ops.selection import highest, marked

# nine tenths dropped: published with a loss below 1 %
_PUBLISHED = Budget(keep_ratio=0.1)


@dataclass(frozen=True, kw_only=True)
class SafeWatch(InLLMMethod):
    """Share the budget out over policies by the attention they pay to the video; each keeps its best tokens.

    Looked at is the attention of the layer below, mean over heads and over a policy's rows. A policy is as
    relevant as its mean attention over the visual tokens; of the tokens that may stay it picks a share in
    proportion, those it attends to most. What any policy picked goes on, so where policies agree there are
    fewer tokens than asked for.

    Args:
        layer: the layer before which tokens are dropped; None = a quarter of the way up (where it was
            published is not known to us).
        policy_sizes: tokens of each policy in the prompt, one policy right after the other. None: all text
            behind the video is one policy.
        policy_start: rows between the last visual token and the first policy.
        fill: whether places that policies picked twice go to the next best tokens by the attention of all
            policies, each policy counted alike, so that as many go on as asked for.

    ``keep_ratio`` (default 0.1) is rounded down, at least one token stays. Ties go to the token further
    ahead.

    Source: arXiv 2412.06878, the adaptive pruning, from its text; the code of the model was not released.
    Policies that do not see each other: ``streamprune.models.parallel_text``.
    """

    layer: int | None = None
    policy_sizes: tuple[int, ...] | None = None
    policy_start: int = 0
    fill: bool = False

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("policy_start", self.policy_start, least=0)
        check_flag("fill", self.fill)
        if self.layer is not None:
            check_count("layer", self.layer)
        if self.policy_sizes is None:
            if self.policy_start:
                raise InvalidValueError("policy_start must be 0 without policy_sizes")
            return
        if isinstance(self.policy_sizes, str) or not isinstance(self.policy_sizes, Sequence):
            raise InvalidTypeError(
                f"policy_sizes must be a list of numbers of tokens, got {self.policy_sizes!r}"
            )
        for size in self.policy_sizes:
            check_count("policy_sizes", size)
        if not self.policy_sizes:
            raise InvalidValueError("policy_sizes must name one policy at least, got none")
        object.__setattr__(self, "policy_sizes", tuple(self.policy_sizes))

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(1, 4, depth) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        budget = self.budget if self.budget.is_given else _PUBLISHED
        count = budget.tokens(len(view.visual))
        scores = self.scores(view)
        stays = picked_by_any(scores, count)
        if self.fill:
            by_all = scores.mean(0)
            # what is picked comes first; no token gets more than all of the attention
            stays = marked(highest(by_all + 2.0 * stays, count), len(by_all))
        return Decision(view.kept_with_text(stays.nonzero()[:, 0]))

    def scores(self, view: PromptView) -> torch.Tensor:
        """(policies, visual) float32 attention of each policy to each visual token."""
        rows = view.after
        sizes = (len(rows),) if self.policy_sizes is None else self.policy_sizes
        needed = self.policy_start + sum(sizes)
        if needed > len(rows):
            raise InvalidValueError(
                f"policy_start and policy_sizes must fit into the {len(rows)} rows behind the video, got "
                f"{needed} rows together"
            )
        attention = view.before.attention(rows[self.policy_start : needed])[:, :, view.visual].mean(0)
        return torch.stack([part.mean(0) for part in torch.split(attention, list(sizes))])


def picked_by_any(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(visual,) bool: what the policies pick of (policies, visual) scores, ``count`` picks altogether."""
    visual = scores.shape[1]
    shares = split_by_weight(count, scores.mean(1).tolist(), [visual] * len(scores))
    stays = torch.zeros(visual, dtype=torch.bool, device=scores.device)
    for own, share in zip(scores, shares, strict=True):
        stays |= marked(highest(own, share), visual)
    return stays
