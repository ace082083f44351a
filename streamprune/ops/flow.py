"""Following what a tower's summary token takes up, layer by layer, and letting go of what it ignores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from streamprune.ops.selection import highest


@dataclass(frozen=True)
class FlowState:
    """What is left after a layer.

    Attributes:
        alive: (images, left) int64, ascending positions among the tokens that came in.
        scores: (images, left) float32, their scores cumulated over the layers so far.
    """

    alive: torch.Tensor
    scores: torch.Tensor


def flow_scores(relevance: torch.Tensor, similarity: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """(images, tokens) float32: how much a token adds to the summary token in one layer.

    Args:
        relevance: (images, tokens) attention of the summary token to each token, at least 0.
        similarity: (images, tokens) how like the summary token's value each value is, at least 0.
        magnitude: (images, tokens) length of each value.
    """
    return (_shares(relevance) + _shares(similarity)) * magnitude.float()


def flow_removals(relevance: torch.Tensor, *, target: int, layers_left: int) -> torch.Tensor:
    """(images,) float32, not yet rounded: how many tokens each image can do without after this layer.

    The surer the summary token is (the lower the entropy of its attention), the more of what exceeds
    ``target`` goes; the more layers are left, the less.

    Args:
        relevance: (images, tokens) as in :func:`flow_scores`.
        target: tokens of an image that stay in the end.
        layers_left: layers after this one, at least 1.
    """
    tokens = relevance.shape[-1]
    if tokens == 1:
        return relevance.new_zeros(relevance.shape[0], dtype=torch.float32)
    share = _shares(relevance)
    sureness = 1 - (-torch.xlogy(share, share).sum(-1) / math.log(tokens)).square()
    return (tokens - target) / math.sqrt(layers_left) * sureness


def flow_step(
    relevance: torch.Tensor,
    similarity: torch.Tensor,
    magnitude: torch.Tensor,
    before: torch.Tensor | None,
    *,
    target: int,
    layers_left: int,
    interval: int = 2,
    momentum: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer: add up scores and, every ``interval`` layers, cut.

    All images of a call lose the same number, the most that one of them can do without. At the last layer
    exactly ``target`` stay; an image that is there already is left as it is.

    Args:
        relevance: (images, tokens) of the tokens still there, as in :func:`flow_scores`.
        similarity: same shape.
        magnitude: same shape.
        before: (images, tokens) cumulated scores so far, None at the first layer.
        target: tokens of an image that stay in the end, at least 1.
        layers_left: layers after this one that are still to score; 0 at the last.
        interval: cuts happen where ``layers_left`` is a multiple of it.
        momentum: weight of ``before`` against this layer's scores.

    Returns:
        (images, left) ascending positions among the tokens of this call, and their cumulated scores.

    Source: arXiv 2505.19536 and its release for CLIP towers.
    """
    images, tokens = relevance.shape
    everyone = torch.arange(tokens, device=relevance.device).expand(images, -1)
    if tokens <= target and before is not None:
        return everyone, before
    scores = flow_scores(relevance, similarity, magnitude)
    if before is not None:
        scores = momentum * before + (1 - momentum) * scores
    if layers_left % interval:
        return everyone, scores
    left = target
    if layers_left > 0:
        removed = flow_removals(relevance, target=target, layers_left=layers_left).max()
        left = max(tokens - round(float(removed)), target)
    kept = highest(scores, left).sort(-1).values
    return kept, scores.gather(1, kept)


def flow(
    relevance: torch.Tensor,
    similarity: torch.Tensor,
    magnitude: torch.Tensor,
    *,
    target: int,
    interval: int = 2,
    momentum: float = 0.5,
) -> Iterator[FlowState]:
    """What is left after each layer of a tower that ran on all tokens: see :func:`flow_step`.

    Args:
        relevance: (images, layers, tokens).
        similarity: same shape.
        magnitude: same shape.
        target: tokens of an image that stay in the end, at least 1.
        interval: cut every so many layers, counted back from the last.
        momentum: of the cumulated scores.
    """
    images, layers, tokens = relevance.shape
    alive = torch.arange(tokens, device=relevance.device).expand(images, -1)
    scores: torch.Tensor | None = None
    for layer in range(layers):
        kept, scores = flow_step(
            relevance[:, layer].gather(1, alive),
            similarity[:, layer].gather(1, alive),
            magnitude[:, layer].gather(1, alive),
            scores,
            target=target,
            layers_left=layers - layer - 1,
            interval=interval,
            momentum=momentum,
        )
        alive = alive.gather(1, kept)
        yield FlowState(alive, scores)


def _shares(values: torch.Tensor) -> torch.Tensor:
    """Divide each row by its sum; a row of zeros becomes equal shares."""
    values = values.float()
    total = values.sum(-1, keepdim=True)
    return torch.where(total > 0, values / total, 1 / values.shape[-1])
