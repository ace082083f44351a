"""Cosine of a place with itself in another frame, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.temporal import place_cosine, previous_cosine, row_cosine, row_products


def draw(frames: int, tokens: int = 6, channels: int = 24) -> torch.Tensor:
    return torch.randn(frames, tokens, channels, generator=torch.Generator().manual_seed(frames))


def exact_cosine(values: torch.Tensor, pairs: list[tuple[int, int]]) -> np.ndarray[tuple[int, ...], np.dtype]:
    exact = values.double().numpy()
    exact = exact / np.linalg.norm(exact, axis=2, keepdims=True)
    return np.stack([(exact[a] * exact[b]).sum(1) for a, b in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("tokens", "channels"), [(1, 1), (6, 24), (300, 1000)])
def test_pairs_of_frames(dtype: torch.dtype, tokens: int, channels: int) -> None:
    values, pairs = draw(5, tokens, channels).to(dtype), [(0, 1), (3, 2), (0, 4)]
    np.testing.assert_allclose(place_cosine(values, pairs), exact_cosine(values, pairs), atol=1e-5)


def test_with_the_previous_frame() -> None:
    values = draw(4)
    expected = exact_cosine(values, [(0, 1), (1, 2), (2, 3)])
    np.testing.assert_allclose(previous_cosine(values), expected, atol=1e-7)
    assert previous_cosine(values[:1]).shape == (0, 6)


def test_two_frames_row_by_row() -> None:
    values = draw(2, 300, 1000)
    assert torch.equal(row_cosine(values[0], values[1]), previous_cosine(values)[0])
    values[1, :2] = 0
    assert row_cosine(values[1], values[1])[:3].tolist() == [0, 0, 1]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_a_copy_has_cosine_one_and_a_zero_token_has_none(scale: float) -> None:
    values = (scale * draw(1, 300, 1000)).expand(3, -1, -1).clone()
    values[1, 7] = 0
    expected = torch.ones(2, 300, dtype=torch.float64)
    expected[:, 7] = 0
    assert torch.equal(previous_cosine(values), expected)


def test_hardly_any_change_is_put_in_order() -> None:
    clip = draw(1, 400, 48).half().float().expand(2, -1, -1).clone() + 20
    clip[1, :, 0] += torch.linspace(0.5, 1, 400)
    clip = clip.half()
    expected = torch.from_numpy(exact_cosine(clip, [(0, 1)]))
    assert len(expected.float().unique()) < 300, "float32 would not tell these places apart"  # type: ignore[no-untyped-call]
    assert torch.equal(previous_cosine(clip).argsort(), expected.argsort())


@pytest.mark.parametrize("rows", [1, 3, 299])
def test_a_row_does_not_feel_its_neighbours(rows: int) -> None:
    left, right = draw(2, 300, 1000)
    whole = row_products(left, right)
    assert torch.equal(row_products(left[:rows], right[:rows]), whole[:rows])
    assert torch.equal(row_products(left[-rows:], right[-rows:]), whole[-rows:])
