"""Replays recorded cases. Methods that work inside the vision tower."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from streamprune.cache.ledger import Ledger
from streamprune.cache.tower_cache import TowerCache
from streamprune.encoder.stc import STCCacher
from streamprune.models.tower_rows import tower_layers
from streamprune.models.tower_run import TowerRun
from tests.goldens.case import Case


@torch.no_grad()
def stc_cacher(case: Case) -> None:
    """Every frame through the layers, one reference after the other."""
    layers = tower_layers(_siglip(case))
    method = STCCacher(update_ratio=case.hp["update_ratio"], interval=case.hp["interval"])
    cache, frames = TowerCache(Ledger(2**30)), case.given("x")
    hidden, updated = [], []
    width = method.count(frames.shape[1])
    # a reference is recorded as all tokens where a row has room for them, else as -1
    everything = torch.arange(width) if width == frames.shape[1] else torch.full((width,), -1)
    for frame in frames:
        run = TowerRun(layers, method, cache, (0, 0), None, method.expired(cache.age))
        states = frame[None]
        with run.standing_in():
            for layer in layers:
                states = layer.module(states, None)
        cache.age = 1 if run.reference or cache.age is None else cache.age + 1
        hidden.append(states[0])
        updated.append(torch.stack([everything if index is None else index for index in run.updated]))
    case.close("hidden", torch.stack(hidden))
    if case.exact:
        case.same("updated", torch.stack(updated))
    else:  # equal frames: whatever is recomputed comes out as it was
        assert torch.stack(updated).shape == case.arrays["out_updated"].shape


def _siglip(case: Case) -> SiglipVisionModel:
    """A stock tower with the recorded weights in its layers."""
    hp, arrays = case.hp, case.arrays
    config = SiglipVisionConfig(
        hidden_size=hp["C"],
        intermediate_size=arrays["in_w0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=hp["layers"],
        num_attention_heads=hp["heads"],
        hidden_act=hp["act"],
        layer_norm_eps=hp["eps"],
        vision_use_head=False,
    )
    tower = SiglipVisionModel(config).eval()
    for number, layer in enumerate(tower.encoder.layers):
        prefix = f"w{number}."
        names = [name.removeprefix(f"in_{prefix}") for name in arrays if name.startswith(f"in_{prefix}")]
        layer.load_state_dict({name: case.given(prefix + name) for name in names})
    return tower


ADAPTERS: dict[str, Callable[[Case], None]] = {"stc_cacher": stc_cacher}
