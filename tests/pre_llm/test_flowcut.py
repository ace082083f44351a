"""FlowCut on a clip: which frames decide together, what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.errors import SignalError
from streamprune.ops.flow import flow
from streamprune.pre_llm.flowcut import FlowCut
from streamprune.reduce import reduce_tokens
from streamprune.reduction import Reduction

NAMES = ("layer_saliency", "layer_value_similarity", "layer_value_norm")


def made(frames: int, layers: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Peaked signals of a 5 x 6 grid, frames differing in how peaked they are."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(0.5, 4, frames)[:, None, None, None]
    logits = (torch.randn(frames, layers, 5, 6, generator=generator) for _ in NAMES)
    return {name: torch.exp(sharpness * values) for name, values in zip(NAMES, logits, strict=True)}


def run(signals: dict[str, torch.Tensor], **options: Any) -> Reduction:
    features = torch.randn(len(signals[NAMES[0]]), 5, 6, 3, generator=torch.Generator().manual_seed(1))
    return reduce_tokens(features, "flowcut", signals=signals, **options)


def test_every_released_default() -> None:
    method = FlowCut()
    assert (method.interval, method.momentum, method.schedule) == (2, 0.5, "clip")


def test_every_frame_keeps_its_share_of_what_the_flow_leaves() -> None:
    signals = made(4, 7)
    reduction = run(signals, keep_ratio=0.2)
    *_, state = flow(*(signals[name].flatten(2) for name in NAMES), target=6)
    expected = state.alive + 30 * torch.arange(4)[:, None]
    assert reduction.index.tolist() == expected.flatten().tolist()


def test_frames_on_their_own_do_not_feel_the_others() -> None:
    signals = made(6, 9)
    alone = [
        run({name: signal[n : n + 1] for name, signal in signals.items()}, keep_ratio=0.2).index + 30 * n
        for n in range(6)
    ]
    own = run(signals, keep_ratio=0.2, schedule="frame").index
    assert own.tolist() == torch.cat(alone).tolist()
    assert own.tolist() != run(signals, keep_ratio=0.2).index.tolist()


def test_equal_frames_decide_as_one_does() -> None:
    one = made(1, 8, seed=3)
    many = {name: signal.expand(5, -1, -1, -1) for name, signal in one.items()}
    expected = run(one, keep_tokens=7).index + 30 * torch.arange(5)[:, None]
    assert run(many, keep_tokens=35).index.tolist() == expected.flatten().tolist()


def test_one_layer_takes_the_best_of_it() -> None:
    signals = made(2, 1)
    score = sum(signals[name] / signals[name].sum((2, 3), keepdim=True) for name in NAMES[:2])
    score = (score * signals[NAMES[2]]).flatten(1)
    expected = score.topk(3).indices + 30 * torch.arange(2)[:, None]
    assert run(signals, keep_ratio=0.1).index.tolist() == sorted(expected.flatten().tolist())


def test_layers_must_be_there_and_as_many_in_each_signal() -> None:
    none = {name: signal[:, :0] for name, signal in made(2, 3).items()}
    with pytest.raises(SignalError, match="'layer_saliency' must hold at least one tower layer"):
        run(none, keep_ratio=0.2)
    signals = made(2, 3)
    signals["layer_value_norm"] = signals["layer_value_norm"][:, :2]
    with pytest.raises(SignalError, match=r"'layer_value_norm' must have shape \(2, 3, 5, 6\)"):
        run(signals, keep_ratio=0.2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"interval": 0}, ValueError),
        ({"interval": 1.5}, TypeError),
        ({"momentum": 1.1}, ValueError),
        ({"momentum": "half"}, TypeError),
        ({"schedule": "batch"}, ValueError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        FlowCut(**options)
