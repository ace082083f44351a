"""How much frames and tokens have to do with the question."""

from __future__ import annotations

import torch

from streamprune.ops.similarity import unit_rows
from streamprune.ops.temporal import row_products


def text_direction(text_embeds: torch.Tensor) -> torch.Tensor:
    """(channels,) float32 mean of the normalised pieces of (pieces, channels), normalised again."""
    return unit_rows(unit_rows(text_embeds).mean(0))


def token_relevance(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """(...,) float32 cosine of tokens (..., channels) with the question; 0 for a zero token.

    Args:
        image_embeds: (..., channels).
        text_embeds: (pieces, channels), in the same space.
    """
    flat = image_embeds.reshape(-1, image_embeds.shape[-1])
    length = torch.linalg.vector_norm(flat, dim=-1, dtype=torch.float32)
    products = row_products(flat, text_direction(text_embeds).expand_as(flat))
    return torch.where(length > 0, products / length, 0.0).reshape(image_embeds.shape[:-1])


def frame_relevance(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """(frames,) float32 cosine of each frame's mean token with the question.

    Args:
        image_embeds: (frames, tokens, channels).
        text_embeds: (pieces, channels), in the same space.
    """
    means = image_embeds.mean(1, dtype=torch.float32)
    return (unit_rows(means) * text_direction(text_embeds)).sum(-1)


def piece_relevance(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) float32 highest cosine of each token with a piece; 0 for a zero token.

    Args:
        image_embeds: (frames, tokens, channels); one frame at a time is held in float32.
        text_embeds: (pieces, channels), in the same space.
    """
    pieces, best = unit_rows(text_embeds), []
    for frame in image_embeds:
        values = frame.float()
        length = torch.linalg.vector_norm(values, dim=-1)
        best.append(torch.where(length > 0, (pieces @ values.T).amax(0) / length, 0.0))
    return torch.stack(best)
