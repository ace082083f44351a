"""Similarity graphs of tokens and what flows along their edges."""

from __future__ import annotations

import torch

# an edge this weak after division by the temperature is no edge
_NO_EDGE = 1e-6
# a cosine this close to 1 is that of copies
_COPY = 1e-6


def similarity_graph(cosine: torch.Tensor, threshold: float, temperature: float) -> torch.Tensor:
    """Transition probabilities between tokens that are alike.

    Args:
        cosine: (..., n, n) float32, symmetric.
        threshold: cosines below it are no edge.
        temperature: above 0; the lower, the more goes to the most similar tokens.

    Returns:
        (..., n, n) float32: the softmax of each row's edges divided by the temperature, 0 where there is no
        edge. A row without any edge (a zero token) is uniform.
    """
    # copies get equal edges, so that their scores are a tie and not rounding noise
    edges = torch.where(cosine > 1 - _COPY, 1.0, cosine) / temperature
    edges = edges.masked_fill((cosine < threshold) | (edges.abs() < _NO_EDGE), -float("inf"))
    alone = (edges == -float("inf")).all(-1, keepdim=True)
    return torch.softmax(edges.masked_fill(alone, 0.0), -1)


def propagate(mass: torch.Tensor, transitions: torch.Tensor, steps: int) -> torch.Tensor:
    """(..., n) float32: where ``mass`` (..., n) is after so many steps along (..., n, n) ``transitions``.

    The steps are taken one vector at a time, in float64, so that symmetric tokens stay equal.
    """
    row, matrix = mass.double()[..., None, :], transitions.double()
    for _ in range(steps):
        row = row @ matrix
    return row[..., 0, :].float()
