"""Nearest targets against cosines written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.nearest import nearest_targets


@pytest.mark.parametrize("block_groups", [1, 2, 100])
def test_each_row_finds_the_target_of_its_own_group(block_groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 11, 7, generator=generator)
    targets = torch.randn(5, 3, 7, generator=generator)
    found = nearest_targets(values, targets, block_groups=block_groups)
    for group in range(5):
        a, b = values[group].double().numpy(), targets[group].double().numpy()
        cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
        assert found[group].tolist() == cosine.argmax(1).tolist()


def test_lengths_do_not_matter() -> None:
    targets = torch.tensor([[[100.0, 0.0], [0.0, 0.01]]])
    assert nearest_targets(torch.tensor([[[1.0, 2.0], [2e-3, 1e-3]]]), targets).tolist() == [[1, 0]]


def test_ties_and_zero_rows_go_to_the_lowest_target() -> None:
    targets = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    values = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]])
    assert nearest_targets(values, targets).tolist() == [[1, 0, 0]]


def test_a_lead_too_small_for_float32_counts() -> None:
    value = 20 + torch.randn(1, 1, 48, generator=torch.Generator().manual_seed(2))
    turn = torch.randn(48, generator=torch.Generator().manual_seed(3))
    targets = torch.stack([value[0, 0] + turn * (1 + step) for step in torch.arange(9, 0, -1) * 1e-6])[None]
    assert nearest_targets(value, targets).tolist() == [[8]]
    assert nearest_targets(value, targets[:, [8, 4, 8]]).tolist() == [[0]]


def test_half_precision_decides_as_its_float32_copy() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 20, 8, generator=generator).bfloat16()
    targets = values[:, ::5]
    found = nearest_targets(values, targets)
    assert torch.equal(found, nearest_targets(values.float(), targets.float()))
    assert found[:, ::5].tolist() == [[0, 1, 2, 3]] * 3


def test_no_rows() -> None:
    assert nearest_targets(torch.zeros(2, 0, 4), torch.ones(2, 1, 4)).shape == (2, 0)
