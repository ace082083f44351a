"""The key-value cache of one answer, which knows what each token of the prompt is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from streamprune.kv.view import PROMPT_TEXT, TokenLabels

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache
    from streamprune.kv.method import CacheMethod
    from streamprune.models.base import Prompt, VideoFamily
    from streamprune.reduction import Reduction


def answer_cache(
    family: VideoFamily, method: CacheMethod | None, prompt: Prompt, reduction: Reduction
) -> KeptCache | None:
    """An empty cache that ``method`` keeps small; None, for the stock one, without a method."""
    if method is None:
        return None
    from streamprune.cache.kept import KeptCache

    return KeptCache.of(family.model, method, labels=prompt_labels(prompt, reduction))


def prompt_labels(prompt: Prompt, reduction: Reduction) -> TokenLabels:
    """Frames and places of the visual tokens, everything else text.

    Rows that stand for no token belong to the last one, where the prompt puts them.
    """
    grid = reduction.grid
    per_frame = grid.rows * grid.cols
    index = torch.where(reduction.index < 0, grid.tokens - 1, reduction.index).to(prompt.input_ids.device)
    columns = prompt.kept_columns.to(prompt.input_ids.device)
    segments = torch.full_like(prompt.input_ids, PROMPT_TEXT)
    cells = torch.full_like(prompt.input_ids, -1)
    segments[0, columns], cells[0, columns] = index // per_frame, index % per_frame
    return TokenLabels(segments, cells, (grid.rows, grid.cols))
