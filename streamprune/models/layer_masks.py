"""The attention mask of one decoder layer whose cache holds fewer entries than the first layer's."""

from __future__ import annotations

import torch


def joined_validity(
    held: torch.Tensor | None, held_length: int, new: torch.Tensor | None, like: torch.Tensor
) -> torch.Tensor | None:
    """(batch, keys) bool: which keys are not padding, of those held before and the new ones; None = all.

    Args:
        held: (batch, held_length) of the entries in the cache, None = all.
        new: (batch, rows) of the rows that come now, None = all.
        like: (batch, rows, ...) the states that come now.
    """
    if held is None and new is None:
        return None
    batch, rows = like.shape[:2]
    parts = [
        like.new_ones((batch, length), dtype=torch.bool) if part is None else part.to(like.device)
        for part, length in ((held, held_length), (new, rows))
    ]
    return torch.cat(parts, 1)


def layer_mask(
    implementation: str, states: torch.Tensor, held_length: int, valid: torch.Tensor | None
) -> torch.Tensor | None:
    """What the attention called ``implementation`` takes as its mask.

    Args:
        implementation: "sdpa", "eager", or a name with "flash" in it.
        states: (batch, rows, width) what enters the layer.
        held_length: entries in the layer's cache before.
        valid: (batch, held_length + rows) bool, see :func:`joined_validity`.

    Returns:
        None where causal attention needs no mask; else (batch or 1, 1, rows, keys): True = seen for sdpa,
        added to the scores for eager; the two-dimensional ``valid`` for flash.
    """
    if "flash" in implementation:
        return valid
    rows = states.shape[1]
    # with no entries held, sdpa is causal by itself; one row sees everything
    if valid is None and (rows == 1 or (held_length == 0 and implementation == "sdpa")):
        return None
    query = torch.arange(held_length, held_length + rows, device=states.device)[:, None]
    key = torch.arange(held_length + rows, device=states.device)
    seen = (key <= query)[None, None]
    if valid is not None:
        # a row of padding sees itself, so that no softmax runs over nothing
        seen = seen & (valid[:, None, None] | (key == query))
    return mask_of(implementation, seen, states.dtype)


def mask_of(implementation: str, seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(batch or 1, 1, rows, keys) bool ``seen`` as the attention called "sdpa" or "eager" takes it."""
    if implementation != "eager":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
