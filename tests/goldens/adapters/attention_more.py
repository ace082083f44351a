"""Replays recorded cases. More methods that rank tokens by attention, text or several tower layers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.ops.flow import flow
from tests.goldens.case import Case
from tests.goldens.decision import decide


def flowcut(case: Case) -> None:
    """Replays FlowCut's controller in a CLIP tower; row 0 of every recorded signal is the [CLS] token."""
    hp = case.hp
    layers, target = hp["select_layer"], hp["target_with_cls"] - 1
    relevance = case.given("cls_attn").mean(2)
    magnitude = case.given("value").abs().sum(-1)
    recorded = (relevance, case.given("semantic_attn"), magnitude)
    signals = [signal[:layers, :, 1:].transpose(0, 1) for signal in recorded]
    states = list(flow(signals[0], signals[1], signals[2], target=target))
    case.same("lengths", [state.alive.shape[1] + 1 for state in states])
    case.close("final_scores", states[-1].scores)
    hidden = case.given("hidden")[:, None, 1:]
    names = ("layer_saliency", "layer_value_similarity", "layer_value_norm")
    reduction = decide(
        hidden,
        "flowcut",
        keep_tokens=target * len(hidden),
        signals={name: signal[:, :, None] for name, signal in zip(names, signals, strict=True)},
    )
    first = torch.arange(len(hidden))[:, None] * hidden.shape[2]
    case.same("kept", reduction.index.reshape(len(hidden), target) - first)


ADAPTERS: dict[str, Callable[[Case], None]] = {"flowcut_clip": flowcut}
