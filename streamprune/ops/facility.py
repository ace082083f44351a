"""Facility location: picks such that every token has one like it among them."""

from __future__ import annotations

import torch

# candidates brought up to date at a time
_REFRESHED = 32
# additions closer than this are equal
_SAME = 2.0**-30


def greedy_facility(similarities: torch.Tensor, bonus: torch.Tensor, count: int) -> torch.Tensor:
    """Pick again and again the token that adds most to coverage plus bonus.

    Coverage is the sum over all tokens of the similarity to the most similar pick. What a candidate adds only
    falls as picks are made, so an old value is an upper bound, and only candidates that lead are computed
    anew.

    Args:
        similarities: (batch, n, n), symmetric, at least 0.
        bonus: (batch, n), what picking a token is worth by itself.
        count: how many to pick; more than ``n`` means all.

    Returns:
        (batch, count) int64 in the order picked; of equal additions (within 1e-9) the lower
        index. No token is picked twice.
    """
    # symmetric to the last bit, or rounding would decide between two tokens that would cover only each other
    similar = (similarities + similarities.mT).double().div_(2)
    bonus = bonus.double()
    size, tokens = bonus.shape
    batch = torch.arange(size, device=bonus.device)
    covered = torch.zeros_like(bonus)
    gain = _rounded(similar.sum(-1) + bonus)
    picks = []
    for _ in range(min(count, tokens)):
        pick = _leader(gain, similar, bonus, covered)
        picks.append(pick)
        covered = torch.maximum(covered, similar[batch, pick])
        gain[batch, pick] = -float("inf")
    return torch.stack(picks, -1)


def _leader(
    gain: torch.Tensor, similar: torch.Tensor, bonus: torch.Tensor, covered: torch.Tensor
) -> torch.Tensor:
    """(batch,) the candidates that add most; bounds in ``gain`` are lowered to what is true as needed."""
    batch = torch.arange(len(gain), device=gain.device)
    fresh = torch.zeros_like(gain, dtype=torch.bool)
    first_row = batch[:, None] * gain.shape[1]
    some = min(_REFRESHED, gain.shape[1])
    while True:
        leader = gain.argmax(1)
        if bool(fresh[batch, leader].all()):
            return leader
        # which of equal candidates come first does not matter: all of them lead until they are fresh
        place = gain.masked_fill(fresh, -float("inf")).topk(some).indices
        place[:, 0] = torch.where(fresh[batch, leader], place[:, 0], leader)
        rows = similar.flatten(0, 1).index_select(0, (place + first_row).flatten()).reshape(*place.shape, -1)
        added = _rounded(rows.sub_(covered[:, None]).clamp_(min=0).sum(-1) + bonus.gather(1, place))
        picked = gain.gather(1, place) == -float("inf")
        gain.scatter_(1, place, added.masked_fill(picked, -float("inf")))
        fresh.scatter_(1, place, True)


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return values.div_(_SAME).round_().mul_(_SAME)
