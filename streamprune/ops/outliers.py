"""Which numbers of a list stand apart from their neighbours in value."""

from __future__ import annotations

import torch

# keeps the density of coinciding numbers finite
_LEAST_REACH = 1e-10


def local_outlier_factors(values: torch.Tensor, neighbors: int) -> torch.Tensor:
    """How much thinner the values lie around each number than around its neighbours, about 1 for most.

    On a line the ``k`` nearest of a number form, with it, a run of the sorted list; so only the runs it lies
    in are looked at. Of runs with equally far ends the lower one counts.

    Args:
        values: (rows, numbers) each row a list of its own.
        neighbors: how many nearest others make a density, at least 1; more than there are means all.

    Returns:
        (rows, numbers) float64; 1 where a row has a single number.

    Source: local outlier factor (Breunig et al., SIGMOD 2000).
    """
    numbers = values.shape[1]
    count = min(neighbors, numbers - 1)
    if count < 1:
        return torch.ones_like(values, dtype=torch.float64)
    ordered, order = torch.sort(values.double(), dim=1, stable=True)
    place = torch.arange(numbers, device=values.device)[:, None]
    step = torch.arange(count + 1, device=values.device)
    starts = place - count + step
    inside = (starts >= 0) & (starts + count < numbers)
    starts = starts.clamp(0, numbers - count - 1)
    here = ordered[:, :, None]
    farthest = torch.maximum(here - ordered[:, starts], ordered[:, starts + count] - here)
    reach, best = torch.where(inside, farthest, torch.inf).min(-1)
    # (rows, numbers, count + 1) the run of each number, itself included
    run = starts.expand(len(values), -1, -1).gather(2, best[:, :, None]) + step
    others = run != place
    distance = (_at(ordered, run) - here).abs()
    mean_reach = _mean_where(others, torch.maximum(distance, _at(reach, run)), count)
    density = 1 / (mean_reach + _LEAST_REACH)
    factor = _mean_where(others, _at(density, run), count) / density
    return torch.empty_like(factor).scatter_(1, order, factor)


def _at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(rows, numbers, k): the entries of (rows, numbers) at ``places`` (rows, numbers, k)."""
    return values.gather(1, places.flatten(1)).reshape(places.shape)


def _mean_where(mask: torch.Tensor, values: torch.Tensor, count: int) -> torch.Tensor:
    return torch.where(mask, values, 0.0).sum(-1) / count
