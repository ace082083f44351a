"""Farthest-point picks among thousands of tokens, without the matrix of all their distances.

The plain rule asks for one matrix-vector product per pick, and for every distance there is to find the first.
Here products are taken in blocks and only where a bound leaves doubt; the picks are those of the plain rule.

Rounding: the sums in a float32 product err by up to some 1e-6 where rows are alike, differently for every
shape of product. Distances closer than that (:func:`_doubt`) are therefore compared again, summed in
float64 and then rounded to float32; equal ones are a tie, which goes to the lower index. (Of more than
``_FINALISTS`` the first are compared.)
"""

from __future__ import annotations

import torch

from streamprune.ops.cosines import CosineRows
from streamprune.ops.selection import highest

# a distance below this is that of a copy
_COPY = 2e-6
# tokens that may be the farthest looked at, and those compared carefully after copies of the first are out
_CONTENDERS, _FINALISTS = 256, 16
# candidates between which all distances are known while picks are made
_POOL = 256
# tokens that a search for the first pick compares with at a time, and candidates it settles at a time
_WITNESSES = 512
_SETTLED = 16


def farthest_points(
    values: torch.Tensor, count: int, *, look_alike: int = 0, chosen: torch.Tensor | None = None
) -> torch.Tensor:
    """Pick the token farthest from its nearest other token, then always the one farthest from all picks.

    Distances are 1 - cosine. When only copies of picked tokens are left, the lowest indices follow.

    How: the distance of a token from its nearest pick only falls, so an old value is an upper bound. The
    tokens with the highest old values form a pool in which picks are made from a small distance matrix, until
    a token outside might be farther; then the bounds of all are brought up to date with one product.

    Args:
        values: (tokens, channels) float tensor.
        count: how many to pick, at least 1; more than there are means all.
        look_alike: tokens this far apart tend to be alike (tokens per frame for a video); speeds up the
            search for the first pick and changes nothing else. 0 = not known.
        chosen: int64 tokens picked before, each once; what follows is as far as possible from these too.

    Returns:
        (count,) int64 in the order picked, without ``chosen``.
    """
    rows = CosineRows(values)
    if chosen is None or len(chosen) == 0:
        return _further(rows, count, [_most_isolated(rows, look_alike)])
    return _further(rows, len(chosen) + count, chosen.tolist())[len(chosen) :]


def _further(rows: CosineRows, count: int, picks: list[int]) -> torch.Tensor:
    """``picks`` and what follows them, ``count`` altogether; see :func:`farthest_points`."""
    count = min(count, len(rows))
    nearest = torch.full((len(rows),), float("inf"), device=rows.rows.device)
    seen = 0
    while len(picks) < count:
        picked = torch.tensor(picks, device=nearest.device)
        nearest = torch.minimum(nearest, rows.to_nearest_of(picked[seen:]))
        nearest = torch.where(nearest < _COPY, 0.0, nearest)
        nearest[picked] = -float("inf")
        seen = len(picks)
        if float(nearest.max()) <= 0:
            left = (nearest == 0).nonzero()[:, 0]
            return torch.cat([picked, left[: count - seen]])
        picks += _picks_from_pool(rows, nearest, picked, count - seen)
    return torch.tensor(picks, device=nearest.device)


def _picks_from_pool(rows: CosineRows, nearest: torch.Tensor, picked: torch.Tensor, wanted: int) -> list[int]:
    """Next picks, at least one, as long as no token outside the pool can be farther.

    Args:
        nearest: (tokens,) distance from the nearest of ``picked``, -inf for these themselves.
    """
    # rounded, so that equal distances are equal and the lowest indices of them are taken in
    ranked = highest((nearest / _COPY).round(), len(nearest))
    pool, outside = ranked[:_POOL].sort().values, ranked[_POOL:]
    bound = float(nearest[outside].max()) if len(outside) else -float("inf")
    distances, left = rows.between(pool, pool), nearest[pool]
    picks: list[int] = []
    while len(picks) < wanted:
        best = float(left.max())
        doubt = _doubt(best)
        if picks and (best < _COPY or bound > best + doubt):
            break
        contenders = pool[left >= best - doubt]
        if bound >= best - doubt:
            contenders = torch.cat([contenders, outside[nearest[outside] >= best - doubt]]).sort().values
        pick = int(contenders[0])
        if len(contenders) > 1:
            known = torch.cat([picked, picked.new_tensor(picks)])
            pick = int(contenders[_farthest(rows, contenders, known)])
        picks.append(pick)
        place = int(torch.searchsorted(pool, pick))
        if place == len(pool) or int(pool[place]) != pick:
            break  # from outside: its distances are not known
        left = torch.minimum(left, distances[place])
        left[place] = -float("inf")
    return picks


def _doubt(distance: float) -> float:
    """How close to this another float32 distance must be for the two to be possibly in the wrong order."""
    return 2.5e-7 + 2e-6 * abs(1 - distance)


def _farthest(rows: CosineRows, finalists: torch.Tensor, others: torch.Tensor) -> int:
    """Which of a few tokens, ascending, is the farthest from its nearest among ``others`` but itself."""
    candidates = rows.rows[finalists[:_CONTENDERS]]
    distinct = (candidates != candidates[:1]).any(-1)
    distinct[0] = True
    place = distinct.nonzero()[:_FINALISTS, 0]
    if len(place) == 1:
        return 0
    finalists = finalists[place]
    distances = rows.between(finalists, others)
    closest = distances.amin(1, keepdim=True)
    decisive = (distances <= closest + 2 * _doubt(float(closest.min()))).any(0)
    careful = rows.carefully_between(finalists, others[decisive])
    return int(place[careful.amin(1).argmax()])


def _most_isolated(rows: CosineRows, look_alike: int) -> int:
    """The token farthest from its nearest other token, by exclusion."""
    search = _Isolation(rows)
    if 0 < look_alike < len(rows):
        search.compare_shifted(look_alike)
        search.settle(search.likely())
    while not search.over:
        if 3 * len(search.alive) > len(rows):
            search.settle(torch.unique(torch.cat([search.likely(), search.some()])))
        else:
            search.settle(search.likely())
            search.compare(search.some())
            search.compare(search.some())
    return search.winner()


class _Isolation:
    """Upper bounds of each token's distance from its nearest other token, and who can still have the largest.

    A distance from any other token is a bound. A token is settled when all its distances have been looked at;
    who is bound below the best settled one is out of the race.
    """

    def __init__(self, rows: CosineRows) -> None:
        self.rows = rows
        self.bound = torch.full((len(rows),), float("inf"), device=rows.rows.device)
        self.settled = torch.zeros_like(self.bound, dtype=torch.bool)
        self.compared = torch.zeros_like(self.settled)
        self.alive = rows.everyone
        self.best = _COPY

    @property
    def over(self) -> bool:
        """Whether every token still in the race is settled."""
        return bool(self.settled[self.alive].all())

    def compare_shifted(self, offset: int) -> None:
        """Compare tokens ``offset`` apart."""
        shifted = self.rows.to_shifted(offset)
        self.bound[:-offset] = shifted
        self.bound[offset:] = torch.minimum(self.bound[offset:], shifted)

    def likely(self) -> torch.Tensor:
        """Unsettled tokens with the highest bounds."""
        unsettled = self.alive[~self.settled[self.alive]]
        return unsettled[highest(self.bound[unsettled], _SETTLED)]

    def some(self) -> torch.Tensor:
        """Tokens not compared with yet, from among those in the race as long as they are many."""
        rest = self.alive[~self.compared[self.alive]]
        if len(rest) < _WITNESSES:
            rest = (~self.compared).nonzero()[:, 0]
        return rest[:: max(1, len(rest) // _WITNESSES)]

    def settle(self, chosen: torch.Tensor) -> None:
        """Compare ``chosen`` with every token."""
        own, of_others = self.rows.to_nearest(chosen)
        # what is settled stays as it is: the same distance comes out a little different in another product
        self.bound = torch.where(self.settled, self.bound, torch.minimum(self.bound, of_others))
        self.bound[chosen] = own
        self.settled[chosen] = True
        self.compared[chosen] = True
        self.best = max(self.best, float(self.bound[self.settled].max()))
        self._exclude()

    def compare(self, chosen: torch.Tensor) -> None:
        """Compare ``chosen`` with those in the race."""
        if 0 in (len(chosen), len(self.alive)):
            return
        distances = self.rows.between(chosen, self.alive)
        lower = self.bound.clone()
        lower[self.alive] = torch.minimum(lower[self.alive], distances.amin(0))
        lower[chosen] = torch.minimum(lower[chosen], distances.amin(1))
        self.bound = torch.where(self.settled, self.bound, lower)
        self.compared[chosen] = True
        self._exclude()

    def _exclude(self) -> None:
        least = max(_COPY, self.best - _doubt(self.best))
        self.alive = self.alive[self.bound[self.alive] >= least]

    def winner(self) -> int:
        """The most isolated token; 0 when each has a copy."""
        if len(self.alive) == 0:
            return 0
        if len(self.alive) == 1:
            return int(self.alive[0])
        return int(self.alive[_farthest(self.rows, self.alive, self.rows.everyone)])
