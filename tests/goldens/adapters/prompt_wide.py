"""Replays recorded cases of in-LLM methods that score with the attention of many rows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.in_llm.aim import AIMInner, importance
from streamprune.in_llm.base import LayerProjections
from streamprune.in_llm.prunevid import PruneVidInner
from streamprune.ops.selection import highest
from tests.goldens.adapters.in_llm import view_of
from tests.goldens.case import Case


class RecordedLayer(LayerProjections):
    """A layer of which the queries and keys of all rows were recorded, before any rotation.

    Args:
        queries: (heads, rows, dim).
        keys: (key heads, rows, dim).
    """

    def __init__(self, queries: torch.Tensor, keys: torch.Tensor) -> None:
        self._queries = queries
        self._keys = keys
        self.scaling = keys.shape[-1] ** -0.5

    def queries(self, rows: torch.Tensor, *, rotated: bool = True) -> torch.Tensor:
        return self._queries[:, rows]

    def keys(self, *, rotated: bool = True) -> torch.Tensor:
        return self._keys


def prunevid_select(case: Case) -> None:
    """The best of every group that the merging before the language model made, and nothing else."""
    hp = case.hp
    segments = zip(hp["static_sizes"], hp["dynamic_sizes"], hp["window_sizes"], strict=True)
    sizes = [size for static, dynamic, frames in segments for size in (static, *[dynamic // frames] * frames)]
    method = PruneVidInner(keep_ratio=hp["alpha"], group_sizes=tuple(sizes))
    view = view_of(case, RecordedLayer(case.given("q"), case.given("k")))
    kept = method.decide(view).kept
    case.same("kept", kept)
    case.same("position_ids", kept)
    assert len(kept) == int(case.arrays["out_cache_len"])
    case.close("visual_score", method.scores(view))


def aim_pagerank(case: Case) -> None:
    """Some layers of the schedule; rows that are dropped stay, hidden, in the ranking of later layers.

    The released table begins before the range of layers 14 to 22 and stays empty behind it.
    """
    hp = case.hp
    method = AIMInner(layers=(14, 22), temperature=hp["tau_imp"], steps=hp["iters"])
    visual = torch.arange(hp["start"], hp["start"] + hp["V"])
    kept = torch.arange(hp["n"])
    for place, layer in enumerate(hp["layers"]):
        queries, keys = case.given("q")[place], case.given("k")[place]
        scaling = keys.shape[-1] ** -0.5 / method.temperature
        scores = torch.zeros(hp["n"])
        scores[kept] = importance(queries, keys[:, kept], scaling, kept, steps=method.steps)
        case.close(f"importance_layer{layer}", scores)
        count = hp["V"] if layer < 14 else method.count(min(layer + 1, 22), 28, hp["V"])
        left = visual[torch.isin(visual, kept)]
        gone = left[highest(scores[left], len(left))[count:]]
        kept = kept[torch.isin(kept, gone, invert=True)]
        recorded = case.arrays["out_kept_after_layer"][place]
        assert kept.tolist() == recorded[recorded >= 0].tolist(), f"{case.id} layer {layer}"


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "aim_pagerank": aim_pagerank,
    "prunevid_select": prunevid_select,
}
