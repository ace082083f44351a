"""EVS by hand: what changed stays, the first frame always does."""

from __future__ import annotations

import pytest
import torch

from streamprune.budget import Budget
from streamprune.pre_llm.evs import EVS
from streamprune.reduce import reduce_tokens
from streamprune.tokens import VideoGrid


def draw(frames: int, rows: int = 4, cols: int = 5, channels: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randn(frames, rows, cols, channels, generator=generator)


@pytest.mark.parametrize("pruned", [0.1, 0.29, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("frames", [1, 2, 7, 12])
def test_count_is_the_released_rounding(frames: int, pruned: float) -> None:
    reduction = reduce_tokens(draw(frames), "evs", keep_ratio=1 - pruned)
    assert len(reduction) == max(20, int(frames * 20 * (1 - pruned)))
    assert reduction.index[:20].tolist() == list(range(20))


def test_the_two_most_changed_tokens_join_the_first_frame() -> None:
    features = torch.ones(3, 2, 2, 2)
    features[1, 0, 1] = torch.tensor([1.0, -1.0])  # cosine 0, then back: cosine 0
    features[2, 1, 1] = torch.tensor([-1.0, -1.0])  # cosine -1
    reduction = reduce_tokens(features, "evs", keep_ratio=0.5)
    assert reduction.index.tolist() == [0, 1, 2, 3, 5, 11]


def test_a_still_video_keeps_its_first_tokens() -> None:
    features = draw(1).expand(6, -1, -1, -1)
    assert reduce_tokens(features, "evs", keep_ratio=0.4).index.tolist() == list(range(48))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_planted_changes_are_found(dtype: torch.dtype) -> None:
    features = draw(1).expand(9, -1, -1, -1).clone()
    planted = [(2, 1, 3), (5, 0, 0), (7, 3, 4)]
    for frame, row, col in planted:
        features[frame:, row, col] *= -1
    reduction = reduce_tokens(features.to(dtype), "evs", keep_tokens=23)
    assert reduction.index[20:].tolist() == [frame * 20 + row * 5 + col for frame, row, col in planted]


def test_pixels_in_place_of_features() -> None:
    change = torch.zeros(4, 4, 5)
    change[0] = 9.0  # the first frame has nothing before it
    change[2, 1, 1], change[3, 0, 4] = 0.2, 0.1
    method = EVS(compare="pixels", budget=Budget(keep_tokens=22))
    assert method.needs == ("pixel_change",)
    assert EVS().needs == EVS.needs == ()
    signals = {"pixel_change": change}
    reduction = reduce_tokens(draw(4), "evs", keep_tokens=22, compare="pixels", signals=signals)
    assert reduction.index[20:].tolist() == [46, 64]
    assert method.count(VideoGrid(4, 4, 5)) == 22
    with pytest.raises(ValueError, match="signal 'pixel_change'"):
        reduce_tokens(draw(4), "evs", keep_tokens=22, compare="pixels")


def test_an_unknown_comparison_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown compare of evs 'pixel'. Did you mean 'pixels'"):
        EVS(compare="pixel")  # type: ignore[arg-type]
