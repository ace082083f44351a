"""A batch of videos is decided video by video, whatever the method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import streamprune as sp
from streamprune.reduce import reduce_batch, reduce_tokens
from streamprune.reduction import Reduction
from tests.contract.row import Row
from tests.contract.signals import signals_of
from tests.contract.table import ROWS, clip

every_method = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)


def check_same(batch: list[Reduction], alone: list[Reduction]) -> None:
    assert len(batch) == len(alone)
    for got, expected in zip(batch, alone, strict=True):
        assert torch.equal(got.index, expected.index)
        assert torch.equal(got.order, expected.order)
        assert torch.equal(got.source, expected.source)
        torch.testing.assert_close(got.features, expected.features, atol=1e-6, rtol=0)


@every_method
def test_each_video_of_a_batch_is_reduced_as_alone(row: Row) -> None:
    videos = torch.stack([clip(scene=scene) for scene in (1, 3, 8)])
    signals = [signals_of(row, video) for video in videos]
    batched = {name: torch.stack([given[name] for given in signals]) for name in row.needs}
    alone = [
        reduce_tokens(video, row.name, keep_ratio=0.3, signals=given, **row.options)
        for video, given in zip(videos, signals, strict=True)
    ]
    for given in (signals, batched):
        batch = reduce_batch(videos, row.name, keep_ratio=0.3, signals=given, **row.options)
        check_same(batch, alone)


def test_videos_of_different_shapes() -> None:
    videos = [clip(3, 4, 5), clip(8, 2, 2), clip(1, 6, 5)]
    saliency = [video.square().mean(-1) for video in videos]
    looks = [video.mean((1, 2)) for video in videos]
    times = [tuple(0.5 * frame for frame in range(len(video))) for video in videos]
    alone = [
        reduce_tokens(video, "fastvid", keep_tokens=9, signals={"saliency": s, "frame_features": f})
        for video, s, f in zip(videos, saliency, looks, strict=True)
    ]
    batched: dict[str, Any] = {"saliency": saliency, "frame_features": tuple(looks)}
    check_same(sp.reduce_batch(videos, "fastvid", keep_tokens=9, signals=batched, pts_seconds=times), alone)
    check_same(
        reduce_batch(tuple(videos), "stride", keep_ratio=1), [reduce_tokens(v, "none") for v in videos]
    )


@pytest.mark.parametrize(
    ("features", "arguments", "error", "said"),
    [
        (clip(), {}, ValueError, r"features must be \(videos, frames, rows, cols, channels\)"),
        (clip().numpy(), {}, TypeError, "a tensor or a list of them, got ndarray"),
        ([], {}, ValueError, "at least one video"),
        (torch.zeros(0, 8, 6, 5, 16), {}, ValueError, "at least one video"),
        ([clip(), clip()[0]], {}, ValueError, "video 1 of the batch: features must be a non-empty"),
        ([clip(), clip().long()], {}, TypeError, "video 1 of the batch: features must be floating point"),
        ([clip(), clip() * float("nan")], {}, ValueError, "video 1 of the batch: features must be finite"),
        ([clip()] * 2, {"signals": [{}]}, ValueError, r"signals must have one entry a video \(2\), got 1"),
        ([clip()] * 2, {"signals": 3}, TypeError, "signals must be a list"),
        ([clip()] * 2, {"pts_seconds": [None]}, ValueError, "pts_seconds must have one entry a video"),
        ([clip()] * 2, {"pts_seconds": [None, (1.0,)]}, ValueError, "video 1 of the batch: pts_seconds"),
        ([clip()] * 2, {"keep_ratio": 2}, ValueError, "keep_ratio"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    features: Any, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        reduce_batch(features, "stride", **{"keep_ratio": 0.5, **arguments})


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        ({}, "video 0 of the batch: signal 'saliency' .* is needed and was not given"),
        ({"saliency": torch.rand(3, 8, 6, 5)}, r"must hold one tensor a video \(2\), got 3 of them"),
        ({"saliency": 1.0}, r"must hold one tensor a video \(2\), got float"),
        ({"saliency": torch.rand(2, 8, 6, 4)}, r"must have shape \(8, 6, 5\), got \(8, 6, 4\)"),
        ([{"saliency": torch.rand(8, 6, 5)}, {}], "video .* of the batch: signal"),
    ],
)
def test_signals_of_other_batches_are_refused(signals: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        reduce_batch([clip()] * 2, "fastvid", keep_ratio=0.5, signals=signals)
