"""STC's pruner against a float64 reference, and its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.stc import STC, Memory
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid


def made(frames: int, rows: int, cols: int, channels: int = 21, seed: int = 0) -> torch.Tensor:
    """Two scenes of drifting tokens around a common mean."""
    generator = torch.Generator().manual_seed(seed)
    base = 1 + torch.randn(2, rows, cols, channels, generator=generator)
    noise = torch.randn(frames, rows, cols, channels, generator=generator)
    return base[torch.arange(frames) * 3 // (2 * frames)] + 0.4 * noise


def reference(
    features: torch.Tensor,
    keep: int,
    *,
    channel_share: float = 0.5,
    frames_per_call: int = 1,
    score: str = "gaussian",
    memory_weight: float = 0.5,
    align_memory: bool = False,
) -> list[int]:
    """Kept flat indices, in float64."""
    x = features.flatten(1, 2).double().numpy()
    frames, tokens, channels = x.shape
    history: list[Any] = []
    kept: list[int] = []
    for start in range(0, frames, frames_per_call):
        call = x[start : start + frames_per_call]
        variance = call.reshape(-1, channels).var(0)
        chosen = np.argsort(variance, kind="stable")[: int(channels * channel_share)]
        part = call[:, :, chosen]
        history.append((call if align_memory else part).mean((0, 1)))
        memory = np.mean(history, axis=0)
        memory = memory[chosen] if align_memory else memory
        memory /= np.linalg.norm(memory)
        for t, frame in enumerate(part, start):
            unit = frame / np.linalg.norm(frame, axis=1, keepdims=True)
            centre = unit.mean(0)
            if score == "gaussian":
                value = np.zeros(tokens)
                for anchor in (memory, centre):
                    squared = ((unit - anchor) ** 2).sum(1)
                    for width in (0.125, 0.25, 0.5, 1.0, 2.0):
                        value += np.exp(-squared / (2 * width))
            else:
                value = memory_weight * unit @ memory
                value += (1 - memory_weight) * unit @ centre / np.linalg.norm(centre)
            kept += sorted(t * tokens + int(n) for n in np.argsort(value, kind="stable")[:keep])
    return kept


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"channel_share": 0.3},
        {"frames_per_call": 3},
        {"align_memory": True},
        {"score": "dual_anchor"},
        {"score": "dual_anchor", "memory_weight": 0.9, "frames_per_call": 2},
    ],
    ids=str,
)
def test_agrees_with_the_reference(options: dict[str, Any], seed: int) -> None:
    features = made(7, 5, 5, seed=seed)
    reduction = reduce_tokens(features, "stc", keep_tokens=7 * 6, **options)
    assert reduction.index.tolist() == reference(features, 6, **options)


def test_the_odd_token_of_a_frame_is_kept() -> None:
    features = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(3, 3, 4, 4).clone()
    features[1, 2, 1] = torch.tensor([0.0, 2.0, 0.0, 0.0])
    kept = reduce_tokens(features, "stc", keep_tokens=3, channel_share=1.0).index
    assert kept.tolist() == [0, 12 + 9, 24]


def test_what_was_seen_before_is_no_longer_novel() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = torch.randn(2, 64, generator=generator)
    features = torch.stack([old, old, old, old, new])[:, None, None].expand(-1, 1, 10, -1).clone()
    # the last frame is half old, half new
    features[4, :, ::2] = old
    features = features + 0.01 * torch.randn(features.shape, generator=generator)
    kept = reduce_tokens(features, "stc", keep_tokens=25, channel_share=1.0, align_memory=True).index
    assert kept[20:].tolist() == [41, 43, 45, 47, 49]


def test_the_memory_is_the_mean_of_all_calls() -> None:
    memory = Memory()
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [2.0, 2.0]])
    means = [memory.add(vector).tolist() for vector in vectors]
    assert means == [[1, 0], [2, 2], [2, 2]]


def test_every_frame_keeps_the_same_and_one_at_least() -> None:
    features = made(7, 5, 5)
    for ratio, each in ((0.3, 7), (0.01, 1), (0.5, 12)):
        method = STC(budget=Budget(keep_ratio=ratio))
        assert method.count(VideoGrid(7, 5, 5)) == 7 * each
        kept = reduce_tokens(features, "stc", keep_ratio=ratio).index // 25
        assert torch.bincount(kept).tolist() == [each] * 7


def test_only_single_frames_are_decided_at_once() -> None:
    assert STC().causal
    assert not STC(frames_per_call=2).causal
    features = made(7, 5, 5)
    whole = reduce_tokens(features, "stc", keep_ratio=0.3, frames_per_call=2).index
    start = reduce_tokens(features[:4], "stc", keep_ratio=0.3, frames_per_call=2).index
    assert torch.equal(start, whole[whole < 100])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"channel_share": 1.2}, ValueError),
        ({"frames_per_call": 0}, ValueError),
        ({"frames_per_call": 1.5}, TypeError),
        ({"memory_weight": -0.1}, ValueError),
        ({"score": "dual"}, ValueError),
        ({"align_memory": "yes"}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        STC(**options)
