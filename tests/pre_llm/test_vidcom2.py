"""VidCom2 against a float64 reference, its shares by hand, and the count it may promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.vidcom2 import VidCom2, similarities
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid


def made(frames: int, rows: int, cols: int, channels: int = 20, seed: int = 0) -> torch.Tensor:
    """Two scenes of drifting tokens around a common mean."""
    generator = torch.Generator().manual_seed(seed)
    base = 1 + torch.randn(2, rows, cols, channels, generator=generator)
    noise = torch.randn(frames, rows, cols, channels, generator=generator)
    return base[torch.arange(frames) * 3 // (2 * frames)] + 0.4 * noise


def reference(
    features: torch.Tensor, ratio: float, channel_share: float, temperature: float, exact: bool
) -> list[int]:
    """Kept flat indices, in float64, one token at a time."""
    x = features.flatten(1, 2).double().numpy()
    frames, tokens, channels = x.shape
    variance = x.reshape(-1, channels).var(0)
    chosen = np.argsort(variance, kind="stable")[: int(channels * channel_share)]
    unit = x[:, :, chosen] / np.linalg.norm(x[:, :, chosen], axis=2, keepdims=True)
    to_video, to_frame = np.zeros((frames, tokens)), np.zeros((frames, tokens))
    for t in range(frames):
        for n in range(tokens):
            for width in (0.125, 0.25, 0.5, 1.0, 2.0):
                far = ((unit[t, n] - unit.mean((0, 1))) ** 2).sum()
                near = ((unit[t, n] - unit[t].mean(0)) ** 2).sum()
                to_video[t, n] += np.exp(-far / (2 * width))
                to_frame[t, n] += np.exp(-near / (2 * width))
    weight = np.exp((-to_video.mean(1) - (-to_video.mean(1)).max()) / temperature)
    weight /= weight.sum()
    share = np.minimum(1, ratio * (1 + weight - weight.mean()))
    score = (to_video + to_frame).ravel()
    kept: list[int] = []
    for t in range(frames):
        order = np.argsort(score[t * tokens : (t + 1) * tokens], kind="stable")
        kept += [t * tokens + int(n) for n in order[: max(1, round(share[t] * tokens))]]
    if exact:
        wanted = max(frames, int(frames * tokens * ratio))
        dropped = sorted(set(range(frames * tokens)) - set(kept), key=lambda token: score[token])
        kept = sorted(kept, key=lambda token: score[token])[:wanted]
        kept += dropped[: wanted - len(kept)]
    return sorted(kept)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("shape", "ratio", "options"),
    [
        ((8, 5, 5), 0.25, {}),
        ((7, 4, 6), 0.13, {"channel_share": 0.3}),
        ((9, 5, 5), 0.61, {"temperature": 0.1}),
        ((5, 3, 3), 0.05, {"channel_share": 1.0}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    shape: tuple[int, int, int], ratio: float, options: dict[str, Any], seed: int, exact: bool
) -> None:
    features = made(*shape, seed=seed)
    reduction = reduce_tokens(features, "vidcom2", keep_ratio=ratio, exact_count=exact, **options)
    filled = {"channel_share": 0.5, "temperature": 0.01, **options}
    assert reduction.index.tolist() == reference(features, ratio, exact=exact, **filled)


@pytest.mark.parametrize(
    ("unusual", "shares"),
    [
        ([0.0, 0.0, 0.0, 1.0], [0.1875, 0.1875, 0.1875, 0.4375]),
        ([-3.30, -3.31, -3.32, -3.33], [0.3485, 0.2467, 0.2093, 0.1955]),
    ],
)
def test_shares_of_frames(unusual: list[float], shares: list[float]) -> None:
    similarity = -torch.tensor(unusual)[:, None].expand(-1, 6)
    torch.testing.assert_close(
        VidCom2().frame_shares(similarity, 0.25), torch.tensor(shares), atol=1e-4, rtol=0
    )


def test_shares_add_up_unless_a_frame_is_full() -> None:
    similarity = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    assert float(VidCom2().frame_shares(similarity, 0.4).sum()) == pytest.approx(2.8)
    full = VidCom2().frame_shares(similarity, 0.9)
    assert float(full.max()) == 1
    assert float(full.sum()) < 6.3


def test_identical_tokens_are_as_near_as_can_be_and_share_evenly() -> None:
    features = torch.full((6, 5, 4, 8), 0.3)
    for similarity in similarities(features.flatten(1, 2), 0.5):
        torch.testing.assert_close(similarity, torch.full((6, 20), 5.0))
    reduction = reduce_tokens(features, "vidcom2", keep_ratio=0.25)
    assert reduction.index.tolist() == [t * 20 + n for t in range(6) for n in range(5)]


def test_the_order_of_frames_and_the_length_of_a_token_do_not_matter() -> None:
    features, order = made(6, 5, 4), torch.tensor([3, 0, 5, 1, 4, 2])
    kept = torch.zeros(6, 20, dtype=torch.bool)
    kept.view(-1)[reduce_tokens(features, "vidcom2", keep_ratio=0.3).index] = True
    moved = torch.zeros(6, 20, dtype=torch.bool)
    moved.view(-1)[reduce_tokens(features[order], "vidcom2", keep_ratio=0.3).index] = True
    assert torch.equal(moved, kept[order])
    # all channels count, so that a longer token cannot change which ones do
    longer = features.clone()
    longer[2, 3, 1] *= 50
    plain, scaled = (
        reduce_tokens(clip, "vidcom2", keep_ratio=0.3, channel_share=1.0) for clip in (features, longer)
    )
    assert torch.equal(plain.index, scaled.index)


@pytest.mark.parametrize(("pruned", "count"), [(0.75, 200), (0.999, 8), (0.29, 568), (0.5, 400)])
def test_the_promised_count(pruned: float, count: int) -> None:
    method = VidCom2(exact_count=True, budget=Budget(keep_ratio=1 - pruned))
    assert method.count(VideoGrid(8, 10, 10)) == count
    reduction = reduce_tokens(made(8, 10, 10), "vidcom2", keep_ratio=1 - pruned, exact_count=True)
    assert len(reduction) == count
    assert VidCom2(budget=Budget(keep_ratio=1 - pruned)).count(VideoGrid(8, 10, 10)) is None


def test_an_unusual_frame_keeps_more_and_every_frame_keeps_one() -> None:
    features = made(1, 6, 6).expand(8, -1, -1, -1) + 0.01 * made(8, 6, 6, seed=1)
    features[5] = made(2, 6, 6, seed=2)[0]
    frame = reduce_tokens(features, "vidcom2", keep_ratio=0.2).index // 36
    kept = torch.bincount(frame, minlength=8)
    assert int(kept.argmax()) == 5
    assert int(kept[5]) > 1.8 * int(kept[4])
    few = reduce_tokens(features, "vidcom2", keep_ratio=0.005).index // 36
    assert few.tolist() == list(range(8))


def test_a_single_channel_is_enough() -> None:
    assert len(reduce_tokens(torch.rand(4, 3, 3, 1), "vidcom2", keep_tokens=9, exact_count=True)) == 9


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"channel_share": 1.2}, ValueError),
        ({"channel_share": "half"}, TypeError),
        ({"temperature": 0}, ValueError),
        ({"temperature": float("nan")}, ValueError),
        ({"exact_count": 1}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        VidCom2(**options)
