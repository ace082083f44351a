"""CoreMatching: visual tokens that wake the same neurons as the question stay; no attention is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_share
from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PartCall, PromptView, scaled_layer
from streamprune.ops.selection import highest, marked

# what enters it are the activations of the layer's neurons
_NEURONS = "mlp.down_proj"


@dataclass(frozen=True, kw_only=True)
class CoreMatching(InLLMMethod):
    """Count the neurons of a feed-forward part that are active for a visual token and for the question.

    A neuron is active for a row when its activation is above 0. A token's score is how many of its active
    neurons are core neurons. Without a budget the scores decide how many tokens go on: sorted from the
    highest, the score farthest from the straight line between the first and the last is the elbow, and tokens
    strictly above it stay; a straight line has no elbow, and everything stays. With ``keep_ratio`` (rounded
    down, at least one token) or ``keep_tokens`` the best go on. Ties go to the token further ahead.

    Args:
        layer: the layer before which tokens are dropped; the neurons are those of the layer below. None = 6
            of 32, scaled to the depth: the first place where the release acts.
        reference: core neurons are those active for the row so many rows in front of the prompt's end, 1 =
            the last row (but not for one ahead of the question); 5 as released, where that is the end of the
            instruction in the template of LLaVA-1.5.
        active_share, core_share: the paper's form, both or neither, in (0, 1]: for a row, this share of its
            active neurons, the most active, count as active; core neurons are this share of the neurons
            that count for any row behind the video, those that count for most of them. The paper's numbers
            are not known to us.

    Source: arXiv 2505.19235 and its release for LLaVA-1.5. There every layer from 5 to 19 scores anew and
    sets the keys and values of the tokens it drops to zero, which frees nothing; here tokens leave once and
    for all. Using core neurons only while decoding is not part of this.
    """

    layer: int | None = None
    reference: int = 5
    active_share: float | None = None
    core_share: float | None = None

    needs: ClassVar[tuple[str, ...]] = ("parts",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("reference", self.reference)
        if self.layer is not None:
            check_count("layer", self.layer)
        if (self.active_share is None) != (self.core_share is None):
            raise InvalidValueError(
                "active_share and core_share must be given together or not at all, got "
                f"{self.active_share!r} and {self.core_share!r}"
            )
        if self.active_share is not None:
            check_share("active_share", self.active_share)
            check_share("core_share", self.core_share)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(6, 32, depth) if self.layer is None else self.layer,)

    def watched(self, depth: int) -> tuple[tuple[int, str], ...]:
        """The neurons of the layer below."""
        return tuple((layer - 1, _NEURONS) for layer in self.cuts(depth))

    def watch(self, call: PartCall) -> torch.Tensor:
        """(rows,) int64 how many core neurons are active for each row."""
        rows = len(call.entered)
        text = min(int(call.visual[-1]) + 1, rows - 1)
        if self.active_share is None or self.core_share is None:
            active = call.entered > 0
            core = active[max(text, rows - self.reference)]
        else:
            active = most_active(call.entered, self.active_share)
            core = most_common(active[text:], self.core_share)
        return (active & core).sum(-1)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        scores = view.watched[view.layer - 1, _NEURONS][view.visual]
        if self.budget.is_given:
            chosen = highest(scores, self.budget.tokens(len(scores)))
        else:
            chosen = above_elbow(scores)
        return Decision(view.kept_with_text(chosen))


def most_active(activations: torch.Tensor, share: float) -> torch.Tensor:
    """(rows, neurons) bool: for each row the most active ``share`` of its neurons above 0, rounded up."""
    ranked = torch.sort(activations, dim=-1, descending=True, stable=True).indices
    counts = (activations > 0).sum(-1).tolist()
    kept = [share_of(count, share, rounding="ceil") for count in counts]
    first = torch.arange(activations.shape[-1], device=activations.device)
    stays = first < torch.tensor(kept, device=activations.device)[:, None]
    return torch.zeros_like(stays).scatter_(-1, ranked, stays)


def most_common(active: torch.Tensor, share: float) -> torch.Tensor:
    """(neurons,) bool: of those active for any of (rows, neurons) the most common ``share``, rounded up."""
    often = active.sum(0)
    count = share_of(int((often > 0).sum()), share, rounding="ceil")
    return marked(highest(often, count), len(often))


def above_elbow(scores: torch.Tensor) -> torch.Tensor:
    """Places of the int64 ``scores`` above the elbow of their sorted curve; all where it has none."""
    curve = torch.sort(scores, descending=True).values
    last = len(curve) - 1
    # twice the area of the triangle with the ends of the curve: the distance from their line, in integers
    place = torch.arange(last + 1, device=curve.device)
    area = (place * (curve[0] - curve[-1]) - last * (curve[0] - curve)).abs()
    if int(area.max()) == 0:
        return torch.arange(last + 1, device=curve.device)
    return (scores > curve[int(area.argmax())]).nonzero()[:, 0]
