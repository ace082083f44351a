"""The key-value cache of one answer, which knows what each token of the prompt is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from streamprune.kv.view import PROMPT_TEXT

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache
    from streamprune.kv.base import Policy
    from streamprune.models.base import Prompt, VideoFamily
    from streamprune.reduction import Reduction


def answer_cache(
    family: VideoFamily, policy: Policy | None, prompt: Prompt, reduction: Reduction
) -> KeptCache | None:
    """An empty cache that ``policy`` keeps small; None, for the stock one, without a policy."""
    if policy is None:
        return None
    from streamprune.cache.kept import KeptCache

    return KeptCache.of(family.model, policy, segments=prompt_segments(prompt, reduction))


def prompt_segments(prompt: Prompt, reduction: Reduction) -> torch.Tensor:
    """(1, prompt) int64: the frame of every visual token, PROMPT_TEXT elsewhere.

    Rows that stand for no token belong to the last frame, where the prompt puts them.
    """
    grid = reduction.grid
    segments = torch.full_like(prompt.input_ids, PROMPT_TEXT)
    index = torch.where(reduction.index < 0, grid.tokens - 1, reduction.index)
    frames = index.to(segments.device) // (grid.rows * grid.cols)
    segments[0, prompt.kept_columns.to(segments.device)] = frames
    return segments
