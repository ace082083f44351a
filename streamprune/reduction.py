"""What a method decided: which tokens stay and what each of them is made of.

The third noun of :mod:`streamprune.tokens`, where it is imported from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from streamprune.errors import InvalidTypeError, InvalidValueError

if TYPE_CHECKING:
    import torch

    from streamprune.tokens import VideoGrid, VisualTokens


@dataclass(frozen=True, eq=False)
class Reduction:
    """Which tokens stay and what each of them is made of.

    Build one with :meth:`identity`, :meth:`select` or :meth:`merge`.

    Attributes:
        grid: the grid before the reduction.
        index: ``(kept,)`` int64 flat index of each kept token's representative, ascending and unique
            (unless the method says ``may_repeat``); zero rows of a release are -1 and come last.
        features: ``(kept, channels)`` what the language model gets.
        order: ``(kept,)`` int64, ``order[i]`` is the row of the token the released code emits i-th.
        entries: None for a pure selection; else (row, token, weight), three ``(entries,)`` tensors in
            which every (row, token) pair occurs at most once.
        size_in: ``(tokens,)`` float32 sizes before the reduction, None = one each.
        carried_in: ``(tokens, channels)`` what else belongs to the tokens, None = nothing.
    """

    grid: VideoGrid
    index: torch.Tensor
    features: torch.Tensor
    order: torch.Tensor
    entries: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    size_in: torch.Tensor | None = field(default=None, repr=False)
    carried_in: torch.Tensor | None = field(default=None, repr=False)

    @classmethod
    def identity(cls, tokens: VisualTokens) -> Reduction:
        """Keep every token; ``features`` is the very same tensor."""
        import torch

        index = torch.arange(len(tokens), device=tokens.features.device)
        return cls(tokens.grid, index, tokens.features, index, None, tokens.size, tokens.carried)

    @classmethod
    def select(cls, tokens: VisualTokens, emitted: torch.Tensor) -> Reduction:
        """Keep the tokens with flat indices ``emitted`` (in any order; -1 = a zero row) unchanged."""
        import torch

        if emitted.ndim != 1 or emitted.dtype not in (torch.int64, torch.int32):
            raise InvalidTypeError(
                f"emitted must be a (kept,) tensor of int64 flat indices, got {tuple(emitted.shape)} "
                f"{emitted.dtype}; turn a mask into indices with mask.flatten().nonzero().flatten()"
            )
        # zero rows sort last: they have no place in the video
        index, row_to_emitted = torch.sort(torch.where(emitted < 0, tokens.grid.tokens, emitted), stable=True)
        order = torch.empty_like(row_to_emitted)
        order[row_to_emitted] = torch.arange(len(order), device=order.device)
        zero = index >= tokens.grid.tokens
        features = tokens.features[index.clamp(max=tokens.grid.tokens - 1)]
        if bool(zero.any()):
            if int(zero.sum()) > int((emitted < 0).sum()):
                last, got = tokens.grid.tokens - 1, int(emitted.max())
                raise InvalidValueError(f"emitted must lie in 0..{last} (-1 = a zero row), got {got}")
            features = features.masked_fill(zero[:, None], 0.0)
            index = index.masked_fill(zero, -1)
        return cls(tokens.grid, index, features, order, None, tokens.size, tokens.carried)

    @classmethod
    def merge(
        cls,
        tokens: VisualTokens,
        index: torch.Tensor,
        entries: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        *,
        features: torch.Tensor | None = None,
        order: torch.Tensor | None = None,
    ) -> Reduction:
        """Keep rows that are weighted sums of tokens.

        Args:
            index: ``(kept,)`` ascending flat indices of the representatives.
            entries: (row, token, weight) triples; row i of the output is the weighted sum of its tokens.
            features: ``(kept, channels)`` when the caller has already computed them; they must equal
                ``apply(tokens.features)`` within rounding.
            order: emission order, see the class; default = the rows as they stand.
        """
        import torch

        if order is None:
            order = torch.arange(len(index), device=index.device)
        if features is None:
            features = weighted_sum(entries, tokens.features, len(index))
        return cls(tokens.grid, index, features, order, entries, tokens.size, tokens.carried)

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def __repr__(self) -> str:
        return f"Reduction({len(self)} of {self.grid.tokens} tokens, {self.grid})"

    @property
    def is_identity(self) -> bool:
        """Whether every token is kept unchanged."""
        if self.entries is not None or len(self) != self.grid.tokens:
            return False
        return bool((self.index == _counting(self.index)).all())

    @cached_property
    def source(self) -> torch.Tensor:
        """(tokens,) int64: the row each token contributes most to (ties: the lower row); -1 = dropped.

        A representative counts as its own row, however its weights are spread.
        """
        rows = _counting(self.index)
        kept = self.index >= 0
        source = _lowest_row(self.index[kept], rows[kept], self.grid.tokens)
        if self.entries is None:
            return source
        row, token, weight = self.entries
        best = weight.new_full((self.grid.tokens,), -float("inf")).scatter_reduce(0, token, weight, "amax")
        strongest = weight == best[token]
        joined = _lowest_row(token[strongest], row[strongest], self.grid.tokens)
        return source.where(source >= 0, joined)

    @cached_property
    def size(self) -> torch.Tensor:
        """(kept,) float32: how many original tokens each kept token represents (its share of ``source``)."""
        import torch

        size_in = self.size_in
        if size_in is None:
            size_in = torch.ones(self.grid.tokens, device=self.index.device)
        total = torch.zeros(len(self), device=self.index.device)
        kept = self.source >= 0
        return total.index_add(0, self.source[kept], size_in[kept].float())

    @cached_property
    def carried(self) -> torch.Tensor | None:
        """(kept, channels) what belongs to the kept tokens, merged as their features are; None = nothing."""
        return None if self.carried_in is None else self.apply(self.carried_in)

    @cached_property
    def weights(self) -> torch.Tensor:
        """(kept, tokens) sparse float32 matrix; row i says what kept token i is made of."""
        import torch

        shape = (len(self), self.grid.tokens)
        if self.entries is None:
            kept = self.index >= 0
            row, token = _counting(self.index)[kept], self.index[kept]
            weight = torch.ones(len(row), device=row.device)
        else:
            row, token, weight = self.entries
        place = torch.stack([row, token])
        return torch.sparse_coo_tensor(place, weight.float(), shape, check_invariants=True).coalesce()

    def apply(self, values: torch.Tensor) -> torch.Tensor:
        """Carry per-token ``values`` (tokens, ...) through, merged like the features: (kept, ...).

        Sums are accumulated in float32 (float64 values: in float64) and returned in the dtype of ``values``;
        an identity returns ``values``.
        """
        self._check_length(values)
        if self.is_identity:
            return values
        if self.entries is None:
            return self.take(values)
        flat = values.reshape(self.grid.tokens, -1)
        return weighted_sum(self.entries, flat, len(self)).reshape(len(self), *values.shape[1:])

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Per-token ``values`` (tokens, ...) of the representatives: (kept, ...), unmerged; zero rows give 0.

        For what must not be averaged: positions, ids, time stamps.
        """
        self._check_length(values)
        if self.is_identity:
            return values
        taken = values[self.index.clamp(min=0)]
        zero = self.index < 0
        if bool(zero.any()):
            taken = taken.masked_fill(zero.reshape(-1, *[1] * (taken.ndim - 1)), 0)
        return taken

    def _check_length(self, values: torch.Tensor) -> None:
        if values.shape[0] != self.grid.tokens:
            raise InvalidValueError(
                f"values must have one row per token of {self.grid} ({self.grid.tokens}), "
                f"got {values.shape[0]}"
            )


def _counting(like: torch.Tensor) -> torch.Tensor:
    """0, 1, ... on the device of the one-dimensional ``like``, as many as it has elements."""
    import torch

    return torch.arange(like.shape[0], device=like.device)


def _lowest_row(token: torch.Tensor, row: torch.Tensor, tokens: int) -> torch.Tensor:
    """(tokens,) int64: for each token id the lowest ``row`` paired with it, -1 where there is none."""
    import torch

    none = torch.iinfo(torch.int64).max
    lowest = row.new_full((tokens,), none).scatter_reduce(0, token, row, "amin")
    return lowest.masked_fill(lowest == none, -1)


def weighted_sum(
    entries: tuple[torch.Tensor, torch.Tensor, torch.Tensor], values: torch.Tensor, rows: int
) -> torch.Tensor:
    """Sum ``weight * values[token]`` into each row: (rows, channels) in the dtype of ``values``.

    Sums run in float32, in float64 when the values are.
    """
    import torch

    row, token, weight = entries
    exact = torch.promote_types(values.dtype, torch.float32)
    row, by_row = torch.sort(row, stable=True)
    starts = torch.searchsorted(row, torch.arange(rows, device=row.device))
    summed = torch.nn.functional.embedding_bag(
        token[by_row], values.to(exact), starts, mode="sum", per_sample_weights=weight[by_row].to(exact)
    )
    return summed.to(values.dtype)
