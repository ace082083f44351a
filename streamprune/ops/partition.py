"""Groups that every token of a video belongs to exactly one of, turned into a Reduction."""

from __future__ import annotations

import torch

from streamprune.tokens import Reduction, VisualTokens


def merge_groups(
    tokens: VisualTokens, group: torch.Tensor, weight: torch.Tensor, representative: torch.Tensor
) -> Reduction:
    """One row per group, the weighted sum of its tokens.

    Args:
        group: (tokens,) int64, numbers of groups in the order the released code emits them.
        weight: (tokens,) float32 weight of each token in its group.
        representative: (groups,) int64 flat index of a token of each group.
    """
    index, emitted = representative.sort()
    order = torch.empty_like(emitted)
    order[emitted] = torch.arange(len(emitted), device=emitted.device)
    token = torch.arange(len(tokens), device=group.device)
    return Reduction.merge(tokens, index, (order[group], token, weight), order=order)


def merge_frame_groups(
    tokens: VisualTokens, group: torch.Tensor, weight: torch.Tensor, representative: torch.Tensor
) -> Reduction:
    """:func:`merge_groups` of groups within frames, equally many in each.

    Args:
        group: (frames, tokens per frame) int64, numbers within the frame.
        weight: (frames, tokens per frame) float32.
        representative: (frames, groups) int64 token of each group, counted within the frame.
    """
    frame = torch.arange(tokens.grid.frames, device=group.device)[:, None]
    return merge_groups(
        tokens,
        (group + frame * representative.shape[1]).flatten(),
        weight.flatten(),
        (representative + frame * tokens.grid.tokens_per_frame).flatten(),
    )
