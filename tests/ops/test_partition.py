"""Groups as rows of a Reduction, by hand."""

from __future__ import annotations

import torch

from streamprune.ops.partition import merge_frame_groups, merge_groups
from streamprune.tokens import VideoGrid, VisualTokens


def test_rows_stand_by_representative_and_order_tells_how_they_were_emitted() -> None:
    tokens = VisualTokens(torch.tensor([[1.0], [2.0], [4.0], [8.0]]), VideoGrid(1, 2, 2))
    group, weight = torch.tensor([1, 0, 1, 2]), torch.tensor([0.25, 1.0, 0.75, 1.0])
    reduction = merge_groups(tokens, group, weight, torch.tensor([1, 0, 3]))
    assert reduction.index.tolist() == [0, 1, 3]
    assert reduction.order.tolist() == [1, 0, 2]
    assert reduction.source.tolist() == [0, 1, 0, 2]
    assert reduction.features.flatten().tolist() == [3.25, 2.0, 8.0]


def test_groups_within_frames() -> None:
    tokens = VisualTokens(torch.arange(6.0)[:, None], VideoGrid(2, 1, 3))
    group = torch.tensor([[0, 1, 1], [1, 0, 1]])
    weight = torch.tensor([[1.0, 0.5, 0.5], [0.5, 1.0, 0.5]])
    reduction = merge_frame_groups(tokens, group, weight, torch.tensor([[0, 2], [1, 0]]))
    assert reduction.index.tolist() == [0, 2, 3, 4]
    assert reduction.features[reduction.order].flatten().tolist() == [0.0, 1.5, 4.0, 4.0]
    assert reduction.source.tolist() == [0, 1, 1, 2, 3, 2]
