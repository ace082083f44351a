"""How near unit tokens are to a centre, summed over Gaussians of several widths."""

from __future__ import annotations

import torch

from streamprune.ops.temporal import row_products

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)


def gaussian_similarity(squared_distances: torch.Tensor) -> torch.Tensor:
    """Sum of ``exp(-distance² / (2 a))`` over five widths ``a`` from 1/8 to 2: 5 at distance 0.

    Source: arXiv 2505.14454.
    """
    return torch.stack([(squared_distances / (-2 * width)).exp() for width in _WIDTHS]).sum(0)


def distances_to_centre(values: torch.Tensor, lengths: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """(rows,) float32 squared distances of the directions of (rows, channels) from ``centre``.

    Args:
        values: as they are; they are not normalised, their products are scaled.
        lengths: (rows,) of ``values`` in the channels that count; a row of length 0 lies at the origin.
        centre: (channels,), 0 in the channels that do not count.
    """
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    products = row_products(values, centre.expand_as(values)) * inverse
    return ((lengths > 0) + centre.square().sum() - 2 * products).clamp(min=0)


def mean_direction(values: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(channels,) float32 mean of the directions of (rows, channels) in the channels where ``mask`` is 1.

    Args:
        lengths: (rows,) of ``values`` in those channels; a row of length 0 counts as the origin.
    """
    inverse = torch.where(lengths > 0, 1 / lengths, 0.0)
    return (inverse @ values.float()) * mask / values.shape[0]
