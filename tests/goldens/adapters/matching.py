"""Replays recorded cases. Methods that merge pairs of tokens or cluster tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.ops.matching import bipartite_match
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid
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
        if case.exact and case.recorded(f"unmerged_round{number}") is not None:
            case.close(f"unmerged_round{number}", matching.unmerge(values))
    assert size is not None
    if not case.exact:
        _compare_counts(case, values)
        return
    case.same("source", source)
    case.same("size", size)
    case.close("values", values)


def _compare_counts(case: Case, values: torch.Tensor, name: str = "values") -> None:
    """Where ties decide who merges, how many tokens are left."""
    assert values.shape == case.arrays[f"out_{name}"].shape, case.id


def aim(case: Case) -> None:
    """Replays AIM after one round, after two, and so on."""
    grid = VideoGrid(case.hp["T"], case.hp["h"], case.hp["w"])
    features = case.given("x").reshape(grid.frames, grid.rows, grid.cols, -1)
    ended = torch.arange(grid.tokens_per_frame).expand(grid.frames, -1)
    for number in range(case.hp["rounds"]):
        reduction = reduce_tokens(features, "aim", rounds=number + 1)
        values = reduction.features[reduction.order].reshape(grid.frames, -1, features.shape[-1])
        if not case.exact:
            _compare_counts(case, values, f"values_round{number}")
            continue
        case.close(f"values_round{number}", values)
        emitted = reduction.order.argsort()[reduction.source].reshape(grid.frames, -1)
        first = emitted.new_tensor(range(grid.frames))[:, None] * (len(reduction) // grid.frames)
        slot = torch.from_numpy(case.arrays[f"out_slot_round{number}"])
        ended = slot.gather(1, ended)
        assert torch.equal(emitted - first, ended), f"{case.id} round {number}"


ADAPTERS: dict[str, Callable[[Case], None]] = {"tome": tome, "aim_merge": aim}
