from __future__ import annotations

import pytest
import torch

from streamprune.encoder.base import LayerInput, LayerReduction, LayerSignals, TowerShape
from streamprune.encoder.flowcut import FlowCut, value_similarity
from tests.encoder import references
from tests.encoder.towers import SHAPE, NumpyTower, pixels, run


def test_the_target_is_reached_before_the_last_layer_and_never_undercut() -> None:
    out = run(FlowCut(final_tokens=10), pixels(1))
    assert out.tokens[-1] == 10
    assert min(out.tokens) == 10
    assert out.tokens[0] == 36
    shallow = run(FlowCut(final_tokens=10, layers=(0, 1)), pixels(1))
    assert shallow.tokens[2:] == (10, 10)


def test_targets() -> None:
    assert FlowCut().target(TowerShape(23, 24, 24)) == 192
    assert FlowCut(final_tokens=1000).target(SHAPE) == 36
    assert FlowCut(final_share=0.001).target(SHAPE) == 1
    assert FlowCut(final_share=0.5, final_tokens=3).target(SHAPE) == 3
    assert FlowCut(final_tokens=36).counts(SHAPE) == (36,) * 4
    assert FlowCut(final_tokens=9, layers=(2,)).counts(SHAPE) == (36, 36, 9, 9)
    assert FlowCut().acting_layers(TowerShape(1, 2, 2)) == (0,)


def test_values_like_the_mean_value_are_similar() -> None:
    values = torch.tensor([[[[1.0], [1.0], [-1.0]]]])
    expected = torch.softmax(torch.tensor([1.0, 1.0, -1.0]) / 3, 0)
    torch.testing.assert_close(value_similarity(values)[0], expected)


def decide(logits: torch.Tensor) -> LayerReduction:
    """Layer 0 of 4 for frames whose queries all see each token by ``logits`` (frames, tokens)."""
    frames, tokens = logits.shape
    ones = torch.ones(frames, 1, tokens, 1)
    signals = LayerSignals(queries=ones, keys=logits[:, None, :, None], values=ones)
    place = torch.arange(tokens).expand(frames, -1)
    states = torch.eye(tokens).expand(frames, -1, -1)
    at = LayerInput(TowerShape(4, tokens, 1), 0, states, None, place, signals)
    return FlowCut(final_tokens=4, batch_maximum=True).reduce_layer(at)


def test_a_batch_loses_what_its_readiest_frame_can_spare() -> None:
    even, sure = torch.zeros(1, 16), torch.zeros(1, 16)
    sure[0, 3] = 100.0
    assert decide(even).step is None, "the entropy is as high as can be"
    spare = round(12 / 2**0.5)
    for logits in (sure, torch.cat([even, sure, even])):
        step = decide(logits).step
        assert step is not None
        assert step.index.shape == (len(logits), 16 - spare)
    assert FlowCut().frame_by_frame
    assert not FlowCut(batch_maximum=True).frame_by_frame


def test_equal_frames_of_a_batch_give_what_one_gives() -> None:
    one = pixels(1)
    batch = run(FlowCut(batch_maximum=True), one.expand(3, -1, -1, -1)).states[0]
    torch.testing.assert_close(batch[2], run(FlowCut(), one).states[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("target", "interval", "momentum"), [(12, 2, 0.5), (5, 1, 0.3), (30, 3, 0.0)])
def test_a_whole_run_equals_loops_in_double_precision(target: int, interval: int, momentum: float) -> None:
    given = pixels(3, drift=1.0)
    out = run(FlowCut(final_tokens=target, interval=interval, momentum=momentum), given).states[0]
    for frame, states in zip(given, out, strict=True):
        expected = references.flowcut(NumpyTower(), frame, target, interval, momentum)
        torch.testing.assert_close(states, torch.from_numpy(expected).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final_share": 0}, "final_share must be in"),
        ({"final_tokens": 0}, "final_tokens must be at least 1"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"momentum": 1.5}, "momentum must be in"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowCut(**options)  # type: ignore[arg-type]
