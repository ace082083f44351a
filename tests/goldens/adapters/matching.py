"""Replays recorded cases. Methods that merge pairs of tokens or cluster tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.ops.matching import bipartite_match
from tests.goldens.case import Case


def tome(case: Case) -> None:
    """Replays rounds of bipartite matching on a metric of its own."""
    values, metric = case.given("x"), case.given("metric")
    size, class_token = None, case.hp["class_token"]
    source = torch.arange(values.shape[1]).expand(values.shape[:2])
    for number in range(case.hp["rounds"]):
        matching = bipartite_match(metric, case.hp["r"], class_token=class_token)
        values, size = matching.merge(values, size)
        metric, _ = matching.merge(metric)
        source = matching.slot.gather(1, source)
        if case.recorded(f"unmerged_round{number}") is not None:
            case.close(f"unmerged_round{number}", matching.unmerge(values))
    assert size is not None
    case.same("source", source)
    case.same("size", size)
    case.close("values", values)


ADAPTERS: dict[str, Callable[[Case], None]] = {"tome": tome}
