"""Sensitivity of functions whose derivative is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.errors import InvalidValueError
from streamprune.ops.sensitivity import sensitivity


def rows(count: int = 5, width: int = 8) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1))


def test_a_linear_function_answers_everywhere_alike() -> None:
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
    found = sensitivity(lambda x: x @ weight, rows())
    torch.testing.assert_close(found, found[:1].expand(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(sensitivity(lambda x: x, rows()), torch.ones(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        sensitivity(lambda x: -3 * x, rows()), torch.full((5,), 3.0), rtol=1e-3, atol=0
    )


def test_mean_length_of_directional_derivatives() -> None:
    """Of tanh, whose derivative is written out in float64."""
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randn(16, 8, generator=generator, dtype=torch.float64).numpy()
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    slope = 1 - np.tanh(rows().double().numpy()) ** 2
    expected = np.mean([np.linalg.norm(slope * move, axis=1) for move in drawn], axis=0)
    found = sensitivity(torch.tanh, rows(), directions=16, seed=7)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_equal_rows_get_equal_values_and_nothing_changes_with_the_company() -> None:
    inputs = rows()
    inputs[3] = inputs[0]
    found = sensitivity(torch.sin, inputs)
    assert found[3] == found[0]
    torch.testing.assert_close(sensitivity(torch.sin, inputs[1:2]), found[1:2], rtol=1e-6, atol=0)


def test_half_precision_decides_as_its_float32_copy() -> None:
    inputs = rows().bfloat16()
    assert torch.equal(sensitivity(torch.sin, inputs), sensitivity(torch.sin, inputs.float()))


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8,), {}, "inputs must be"),
        ((0, 8), {}, "inputs must be"),
        ((2, 8), {"directions": 0}, "directions must be"),
        ((2, 8), {"step": 0.0}, "step above 0"),
        ((2, 8), {"step": float("nan")}, "step above 0"),
    ],
)
def test_what_cannot_be_meant(shape: tuple[int, ...], options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        sensitivity(torch.sin, torch.zeros(shape), **options)  # type: ignore[arg-type]
