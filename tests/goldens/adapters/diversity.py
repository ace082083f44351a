"""Replays recorded cases. Methods that choose by diversity: greedy picks, determinants, graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.reduce import reduce_tokens
from tests.goldens.case import Case


def features_of(case: Case) -> torch.Tensor:
    """(T, h, w, D) features of a case."""
    return case.given("x").reshape(case.hp["T"], case.hp["h"], case.hp["w"], -1)


def divprune(case: Case) -> None:
    """Replays DivPrune."""
    reduction = reduce_tokens(features_of(case), "divprune", keep_ratio=case.hp["r"])
    if case.exact:
        case.same("pick_order", reduction.index[reduction.order])
        case.same("kept", reduction.index)
        return
    # copies are told apart by rounding alone: how many stay is all that can be compared
    assert len(reduction) == len(case.arrays["out_kept"])
    assert len(set(reduction.index.tolist())) == len(reduction)


ADAPTERS: dict[str, Callable[[Case], None]] = {"divprune": divprune}
