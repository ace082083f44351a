"""HiPrune against a reference with Python sets, and its counts by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamprune.pre_llm.hiprune import HiPrune
from streamprune.reduce import reduce_tokens


def kept_in(middle: torch.Tensor, deep: torch.Tensor, **options: Any) -> list[list[int]]:
    """Places kept in each frame."""
    features = torch.zeros(*middle.shape, 1)
    reduction = reduce_tokens(
        features, "hiprune", signals=dict(zip(HiPrune.needs, (middle, deep), strict=True)), **options
    )
    in_frame = middle[0].numel()
    kept: list[list[int]] = [[] for _ in middle]
    for token in reduction.index.tolist():
        kept[token // in_frame].append(token % in_frame)
    return kept


def made(frames: int, rows: int, cols: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, frames, rows, cols, generator=generator)
    scores = torch.softmax(scores.flatten(2), 2).reshape(scores.shape)
    return scores[0], scores[1]


def neighbours(anchor: int, rows: int, cols: int, wrap: bool) -> set[int]:
    if wrap:
        return {min(max(anchor + step, 0), rows * cols - 1) for step in (-1, 1, -cols, cols)}
    y, x = divmod(anchor, cols)
    beside = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
    return {b * cols + a for b, a in beside if 0 <= a < cols and 0 <= b < rows}


def reference(
    middle: list[float], deep: list[float], rows: int, cols: int, keep: int, alpha: float, wrap: bool
) -> list[int]:
    by_middle = sorted(range(len(middle)), key=lambda i: (-middle[i], i))
    anchors = set(by_middle[: round(keep * alpha / 5)])
    kept = set(anchors)
    for anchor in anchors:
        kept |= neighbours(anchor, rows, cols, wrap)
    by_deep = sorted(range(len(deep)), key=lambda i: (-deep[i], i))
    if len(kept) > keep:
        buffers = [i for i in by_deep if i in kept - anchors]
        return sorted([*anchors, *buffers[: keep - len(anchors)]])
    rest = [i for i in by_deep if i not in kept]
    return sorted([*kept, *rest[: keep - len(kept)]])


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize(
    ("shape", "keep"), [((3, 6, 7), 12), ((2, 6, 6), 8), ((2, 9, 5), 30), ((2, 1, 9), 4), ((1, 9, 1), 5)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_reference(
    alpha: float, wrap: bool, shape: tuple[int, int, int], keep: int, seed: int
) -> None:
    middle, deep = made(*shape, seed=seed)
    kept = kept_in(middle, deep, keep_tokens=keep * shape[0], anchor_ratio=alpha, wrap_rows=wrap)
    for frame in range(shape[0]):
        expected = reference(
            middle[frame].flatten().tolist(), deep[frame].flatten().tolist(), *shape[1:], keep, alpha, wrap
        )
        assert kept[frame] == expected


@pytest.mark.parametrize(
    ("per_frame", "anchor_ratio", "anchors"),
    # 25 * 0.7 / 5 is a half exactly only when divided last; halves go to even
    [(192, 0.1, 4), (128, 0.1, 3), (64, 0.1, 1), (64, 0.0, 0), (25, 0.3, 2), (25, 0.7, 4), (5, 0.5, 0)],
)
def test_number_of_anchors(per_frame: int, anchor_ratio: float, anchors: int) -> None:
    assert HiPrune(anchor_ratio=anchor_ratio).anchors(per_frame) == anchors


@pytest.mark.parametrize(
    ("anchor", "wrapped", "grid"),
    [
        (0, {0, 1, 24}, {0, 1, 24}),
        (23, {0, 22, 23, 24, 47}, {22, 23, 47}),
        (24, {0, 23, 24, 25, 48}, {0, 24, 25, 48}),
        (575, {551, 574, 575}, {551, 574, 575}),
    ],
)
def test_neighbours_of_24_by_24(anchor: int, wrapped: set[int], grid: set[int]) -> None:
    middle, deep = torch.zeros(1, 24, 24), torch.zeros(1, 24, 24)
    middle.view(-1)[anchor] = 1.0
    deep.view(-1)[300:] = torch.linspace(0.9, 0.1, 276)
    for wrap, expected in ((True, wrapped), (False, grid)):
        (kept,) = kept_in(middle, deep, keep_tokens=64, wrap_rows=wrap)
        assert len(kept) == 64
        assert set(kept) - set(range(300, 300 + 64)) == expected - set(range(300, 300 + 64))
        assert expected <= set(kept)


def test_without_anchors_only_the_deep_layer_counts() -> None:
    middle, deep = made(2, 6, 6, seed=3)
    kept = kept_in(middle, deep, keep_ratio=0.25, anchor_ratio=0.0)
    assert kept == [sorted(frame.flatten().argsort(descending=True)[:9].tolist()) for frame in deep]


@pytest.mark.parametrize(("form", "kept"), [("llava", 73), ("qwen2_5_vl", 74)])
def test_forms_round_a_share_of_221_tokens(form: str, kept: int) -> None:
    middle, deep = made(2, 13, 17, seed=0)
    assert [len(frame) for frame in kept_in(middle, deep, keep_ratio=0.334, form=form)] == [kept, kept]


def test_scores_above_one_do_not_reorder_the_stages() -> None:
    middle, deep = made(1, 6, 6, seed=1)
    options = {"keep_tokens": 12, "anchor_ratio": 0.5}
    assert kept_in(middle, 1e4 * deep, **options) == kept_in(middle, deep, **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"form": "clip"}, ValueError),
        ({"anchor_ratio": 1.1}, ValueError),
        ({"anchor_ratio": True}, TypeError),
        ({"wrap_rows": 1}, TypeError),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        HiPrune(**options)
