"""Tokens and frames against a question, in float64."""

from __future__ import annotations

import numpy as np
import torch

from streamprune.ops.relevance import frame_relevance, token_relevance


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
