"""What a decision carries: features, sizes and anything else per token go through the same object."""

from __future__ import annotations

import pytest
import torch

from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid, VisualTokens


def tokens_of(count: int = 6, channels: int = 3, size: torch.Tensor | None = None) -> VisualTokens:
    features = torch.arange(count * channels, dtype=torch.float32).reshape(count, channels)
    return VisualTokens(features, VideoGrid(1, 1, count), size=size)


def merged(tokens: VisualTokens) -> Reduction:
    """Token 1 takes in 0 and a half of 2; token 4 takes in the other half of 2."""
    entries = (
        torch.tensor([1, 0, 0, 0, 1]),
        torch.tensor([2, 1, 0, 2, 4]),
        torch.tensor([0.25, 0.5, 0.25, 0.25, 0.75]),
    )
    return Reduction.merge(tokens, torch.tensor([1, 4]), entries)


def test_identity() -> None:
    tokens = tokens_of()
    reduction = Reduction.identity(tokens)
    assert reduction.is_identity
    assert reduction.features is tokens.features
    assert reduction.apply(tokens.features) is tokens.features
    assert repr(reduction) == "Reduction(6 of 6 tokens, VideoGrid(frames=1, rows=1, cols=6))"


def test_a_selection_is_sorted_and_remembers_its_order() -> None:
    tokens = tokens_of()
    reduction = Reduction.select(tokens, torch.tensor([5, 0, 3]))
    assert reduction.index.tolist() == [0, 3, 5]
    assert reduction.order.tolist() == [2, 0, 1], "row of the token emitted i-th"
    assert torch.equal(reduction.features, tokens.features[[0, 3, 5]])
    assert reduction.source.tolist() == [0, -1, -1, 1, -1, 2]
    assert reduction.size.tolist() == [1, 1, 1]
    assert not reduction.is_identity


def test_zero_rows_come_last_and_stand_for_nothing() -> None:
    reduction = Reduction.select(tokens_of(), torch.tensor([4, -1, 2, -1]))
    assert reduction.index.tolist() == [2, 4, -1, -1]
    assert reduction.order.tolist() == [1, 2, 0, 3]
    assert torch.equal(reduction.features[2:], torch.zeros(2, 3))
    assert reduction.size.tolist() == [1, 1, 0, 0]
    assert reduction.weights.to_dense().sum(1).tolist() == [1, 1, 0, 0]
    assert reduction.take(torch.arange(6)).tolist() == [2, 4, 0, 0]


@pytest.mark.parametrize(
    ("emitted", "error", "said"),
    [
        (torch.tensor([6]), ValueError, r"must lie in 0\.\.5 .* got 6"),
        (torch.tensor([-1, 9]), ValueError, "got 9"),
        (torch.ones(6, dtype=torch.bool), TypeError, "nonzero"),
        (torch.tensor([1.0]), TypeError, "int64"),
        (torch.tensor([[1]]), TypeError, r"\(1, 1\)"),
    ],
)
def test_what_names_no_tokens_is_refused(emitted: torch.Tensor, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Reduction.select(tokens_of(), emitted)


def test_a_repeated_token_counts_in_its_lowest_row() -> None:
    reduction = Reduction.select(tokens_of(3), torch.tensor([1, 2, 1]))
    assert reduction.index.tolist() == [1, 1, 2]
    assert reduction.source.tolist() == [-1, 0, 2]
    assert reduction.size.tolist() == [1, 0, 1]
    assert not reduction.is_identity


def test_a_merge_is_its_weights() -> None:
    tokens = tokens_of()
    reduction = merged(tokens)
    expected = torch.tensor([[0.25, 0.5, 0.25, 0, 0, 0], [0, 0, 0.25, 0, 0.75, 0]])
    assert torch.equal(reduction.weights.to_dense(), expected)
    torch.testing.assert_close(reduction.features, expected @ tokens.features)
    assert reduction.source.tolist() == [0, 0, 0, -1, 1, -1], "equal shares go to the lower row"
    assert reduction.size.tolist() == [3, 1]
    assert reduction.take(torch.arange(6)).tolist() == [1, 4]


def test_a_representative_is_its_own_row_whatever_its_weights() -> None:
    entries = (torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([0.1, 0.9, 0.2]))
    assert Reduction.merge(tokens_of(2), torch.tensor([0, 1]), entries).source.tolist() == [0, 1]


def test_a_row_made_of_nothing_is_zero() -> None:
    entries = (torch.tensor([1]), torch.tensor([1]), torch.tensor([1.0]))
    assert torch.equal(
        Reduction.merge(tokens_of(2), torch.tensor([0, 1]), entries).features,
        torch.tensor([[0.0, 0, 0], [3, 4, 5]]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_apply_carries_values_of_any_shape_in_their_dtype(dtype: torch.dtype) -> None:
    reduction = merged(tokens_of())
    values = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    carried = reduction.apply(values)
    assert carried.shape == (2, 2, 5)
    assert carried.dtype == dtype
    exact = torch.einsum("kt,tab->kab", reduction.weights.to_dense().double(), values.double())
    torch.testing.assert_close(carried.double(), exact, atol=1e-2 if dtype.itemsize == 2 else 1e-6, rtol=0)
    if dtype == torch.float64:
        torch.testing.assert_close(carried, exact, atol=1e-15, rtol=1e-15)
    assert reduction.apply(values[:, 0, 0]).shape == (2,)


def test_values_of_another_length_are_refused() -> None:
    for carry in (merged(tokens_of()).apply, merged(tokens_of()).take):
        with pytest.raises(ValueError, match="one row per token"):
            carry(torch.zeros(5, 2))


def test_sizes_add_up_what_went_in() -> None:
    tokens = tokens_of(size=torch.tensor([1.0, 2, 4, 8, 16, 32]))
    assert merged(tokens).size.tolist() == [7, 16]
    assert Reduction.select(tokens, torch.tensor([5, 0])).size.tolist() == [1, 32]


def test_decisions_are_told_apart_by_identity() -> None:
    tokens = tokens_of()
    assert Reduction.identity(tokens) != Reduction.identity(tokens)
    assert len({tokens, tokens}) == 1
