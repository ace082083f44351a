"""How much tokens have to do with a question, both given as vectors of one space."""

from __future__ import annotations

import torch

from streamprune.ops.similarity import unit_rows


def mean_relevance(images: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) float32: mean cosine of each token with the pieces of the question.

    Equal tokens get exactly equal values: each is one product of two vectors, which a product of matrices
    would round differently for different rows.

    Args:
        images: (frames, tokens, channels) of any float type; a zero token has relevance 0.
        question: (pieces, channels).
    """
    mean = unit_rows(question).mean(0)[None, :, None]
    return torch.stack(
        [
            _over_length(torch.bmm(v[:, None], mean.expand(len(v), -1, -1))[:, 0, 0], v)
            for v in (frame.float() for frame in images)
        ]
    )


def highest_relevance(images: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) float32: highest cosine of each token with a piece of the question.

    Arguments as for :func:`mean_relevance`.
    """
    pieces = unit_rows(question)
    return torch.stack([_over_length((pieces @ v.T).amax(0), v) for v in (frame.float() for frame in images)])


def _over_length(products: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    length = torch.linalg.vector_norm(values, dim=1)
    return torch.where(length > 0, products / length, 0.0)
