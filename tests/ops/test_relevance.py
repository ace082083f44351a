"""Cosines with the pieces of a question."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.relevance import highest_relevance, mean_relevance


def made(frames: int, tokens: int, pieces: int, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(frames + tokens)
    images = torch.randn(frames, tokens, channels, generator=generator)
    return images, torch.randn(pieces, channels, generator=generator)


@pytest.mark.parametrize("shape", [(3, 10, 4, 7), (1, 1, 1, 1), (2, 5, 1, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_agree_with_numpy(shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    images, question = (values.to(dtype) for values in made(*shape))
    left, right = (values.double().numpy() for values in (images, question))
    cosines = left @ right.T / np.linalg.norm(left, axis=-1, keepdims=True) / np.linalg.norm(right, axis=1)
    for relevance, expected in ((mean_relevance, cosines.mean(-1)), (highest_relevance, cosines.max(-1))):
        found = relevance(images, question)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_zero_tokens_and_pieces_have_nothing_to_do_with_anything() -> None:
    images, question = made(2, 4, 3, 6)
    images[1, 2] = 0
    question[0] = 0
    for relevance in (mean_relevance, highest_relevance):
        found = relevance(images, question)
        assert found[1, 2] == 0
        assert torch.isfinite(found).all()
    assert not mean_relevance(images, question * 0).any()


@pytest.mark.parametrize("tokens", [7, 25, 30, 49])
def test_equal_tokens_have_equal_mean_relevance(tokens: int) -> None:
    images, question = made(1, 1, 3, 72)
    assert len(mean_relevance(images.expand(2, tokens, -1), question).unique()) == 1
