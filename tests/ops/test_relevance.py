"""Tokens and frames against a question, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.relevance import frame_relevance, piece_relevance, token_relevance


def test_cosines_with_the_mean_of_normalised_pieces() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(4, 6, 5, generator=generator), torch.randn(3, 5, generator=generator)
    image[2, 1] = 0
    pieces = text.double().numpy()
    direction = (pieces / np.linalg.norm(pieces, axis=1, keepdims=True)).mean(0)
    direction /= np.linalg.norm(direction)
    exact = image.double().numpy()
    with np.errstate(invalid="ignore"):
        cosine = np.nan_to_num(exact @ direction / np.linalg.norm(exact, axis=-1))
    np.testing.assert_allclose(token_relevance(image, text), cosine, atol=1e-6)
    means = exact.mean(1)
    np.testing.assert_allclose(
        frame_relevance(image, text), means @ direction / np.linalg.norm(means, axis=-1), atol=1e-6
    )
    assert torch.equal(token_relevance(image.half(), text), token_relevance(image.half().float(), text))


def test_highest_cosine_with_a_piece() -> None:
    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(3, 5, 7, generator=generator), torch.randn(4, 7, generator=generator)
    left, right = image.double().numpy(), text.double().numpy()
    cosines = left @ right.T / np.linalg.norm(left, axis=-1, keepdims=True) / np.linalg.norm(right, axis=1)
    np.testing.assert_allclose(piece_relevance(image, text), cosines.max(-1), atol=1e-6)
    image[1, 2] = 0
    assert piece_relevance(image, text)[1, 2] == 0
    assert torch.equal(piece_relevance(image.half(), text), piece_relevance(image.half().float(), text))


@pytest.mark.parametrize("tokens", [7, 25, 30, 49])
def test_equal_tokens_have_exactly_equal_relevance(tokens: int) -> None:
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(72, generator=generator).expand(2, tokens, -1)
    relevance = token_relevance(image, torch.randn(3, 72, generator=generator))
    assert (relevance == relevance[0, 0]).all()
