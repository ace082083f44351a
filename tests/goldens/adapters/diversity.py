"""Replays recorded cases. Methods that choose by diversity: greedy picks, determinants, graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.pre_llm.cdpruner import CDPruner
from streamprune.pre_llm.gprune import GPrune
from streamprune.tokens import VisualTokens
from tests.goldens.case import Case
from tests.goldens.decision import decide


def features_of(case: Case) -> torch.Tensor:
    """(T, h, w, D) features of a case."""
    return case.given("x").reshape(case.hp["T"], case.hp["h"], case.hp["w"], -1)


def divprune(case: Case) -> None:
    """Replays DivPrune."""
    reduction = decide(features_of(case), "divprune", keep_ratio=case.hp["r"])
    if case.exact:
        case.same("pick_order", reduction.index[reduction.order])
        case.same("kept", reduction.index)
        return
    # copies are told apart by rounding alone: how many stay is all that can be compared
    assert len(reduction) == len(case.arrays["out_kept"])
    assert len(set(reduction.index.tolist())) == len(reduction)


def cdpruner(case: Case) -> None:
    """Replays CDPruner."""
    features, hp = features_of(case), case.hp
    signals = {
        "image_embeds": case.given("image_embeds").reshape(hp["T"], hp["h"], hp["w"], -1),
        "text_embeds": case.given("text_embeds"),
    }
    case.close("relevance", CDPruner().relevances(VisualTokens.from_grid(features, signals)))
    kept = decide(features, "cdpruner", keep_tokens=hp["keep"] * hp["T"], signals=signals).index
    picked = kept.reshape(hp["T"], -1) % (hp["h"] * hp["w"])
    if case.exact:
        case.same("kept", picked)
    assert picked.shape == case.arrays["out_kept"].shape, case.id


def gprune(case: Case) -> None:
    """Replays G-Prune: both sets of nodes of an image."""
    hp = case.hp
    options = {
        "similarity_threshold": hp["similarity"],
        "temperature": hp["temperature"],
        "steps": hp["iterations"],
    }
    for number, (rows, cols) in enumerate(((hp["h"], hp["w"]), (hp["h2"], hp["w2"])), 1):
        features = case.given(f"set{number}").reshape(1, rows, cols, -1)
        score, neighbors = GPrune(**options).scores(features.flatten(1, 2))
        case.close(f"score{number}", score[0])
        case.same(f"degree{number}", neighbors[0])
        reduction = decide(features, "gprune", keep_ratio=hp["keep"], **options)
        if case.exact:
            case.same(f"kept_set{number}", reduction.index[reduction.order])
        assert len(reduction) == len(case.arrays[f"out_kept_set{number}"]), case.id


ADAPTERS: dict[str, Callable[[Case], None]] = {
    "divprune": divprune,
    "cdpruner": cdpruner,
    "gprune": gprune,
}
