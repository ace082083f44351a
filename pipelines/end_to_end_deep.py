"""From a slice of a model to the whole of it: EXTRAPOLATED times, linear in the number of layers.

What is spent inside the layers of a slice is told apart from what is spent around them (embedding, head,
merging of patches). A model with L layers, measured with l of them, takes (L / l - 1) times the inside more.
Layers of the vision tower that are missing are taken to cost what the stock model's cost in the same pair,
because most methods read what they need in one layer only; those that read every layer are charged their
own. Recipes that treat layers unlike each other are not extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from streamprune.metrics.clocks import NOTHING, Lap
from streamprune.metrics.flops import DecoderShape
from streamprune.models.tower_signals import EVERY_LAYER
from streamprune.pipelines.end_to_end import Depths, Run, Subject
from streamprune.pipelines.end_to_end_rows import TIMES, Pair, interval, milliseconds, times_ratio
from streamprune.recipe import Recipe

_TIMES = ("tower", "prefill", "decode_step", "ttft")
_UNEVEN = ("encoder", "in_llm", "kv")


def extrapolated(
    subject: Subject, recipe: Recipe, needs: Sequence[str], pairs: Sequence[Pair]
) -> dict[str, Any] | None:
    """Times of the model that ``subject`` is a slice of; None where it is a whole one.

    Args:
        needs: signals that the recipe's method reads.
    """
    depths = subject.depths
    if depths is None:
        return None
    about: dict[str, Any] = {
        "layers": [depths.layers, depths.all_layers],
        "tower_layers": [depths.tower_layers, depths.all_tower_layers],
    }
    uneven = [stage for stage in _UNEVEN if stage in recipe.stages]
    if uneven:
        return {**about, "left_out": f"the stage {uneven[0]} does not do the same in every layer"}
    if not pairs[0][0].together:
        return {**about, "left_out": "the answers of a batch were given one after the other"}
    own = any(name in EVERY_LAYER for name in needs)
    deep = [
        (deepened(stock, stock, depths), deepened(run, run if own else stock, depths)) for stock, run in pairs
    ]
    ratios = {name: times_ratio(deep, TIMES[name]) for name in _TIMES}
    took = milliseconds(deep)
    return {
        **about,
        "ratios": {name: None if ratio is None else interval(ratio) for name, ratio in ratios.items()},
        "milliseconds": {name: {side: took[name][side] for side in ("stock", "recipe")} for name in _TIMES},
        "prefill_flops": [_flops(subject, depths, run) for run in pairs[0]],
    }


def deepened(run: Run, tower_of: Run, depths: Depths) -> Run:
    """``run`` as if with all layers; what is missing in the tower costs what it did in ``tower_of``.

    Only work is extrapolated: elapsed times stay those of the slice.
    """
    more = {
        "tower": _scaled(tower_of, "tower", depths.all_tower_layers / depths.tower_layers - 1),
        "prefill": _scaled(run, "prefill", depths.all_layers / depths.layers - 1),
        "steps": _scaled(run, "steps", depths.all_layers / depths.layers - 1),
    }
    more["first"] = more["tower"] + more["prefill"]
    more["total"] = more["first"] + more["steps"]
    return replace(run, laps={name: lap + more.get(name, NOTHING) for name, lap in run.laps.items()})


def _scaled(run: Run, stage: str, times: float) -> Lap:
    return Lap(0.0, times * run.inside.get(stage, NOTHING).work_seconds)


def _flops(subject: Subject, depths: Depths, run: Run) -> int:
    """Exact, not extrapolated: of the prompts in all layers."""
    shape = replace(DecoderShape.from_config(subject.family.text_config), layers=depths.all_layers)
    return sum(shape.prefill_flops(one.prompt_tokens) for one in run.stats)
