"""The nouns every stage speaks: the grid, the visual tokens on it, and what a reduction decided.

A method decides ONCE. The decision is a :class:`Reduction`, and everything that belongs to a token (features,
sizes, positions, time stamps) is carried through that one object, so they cannot disagree.

A token is named by its flat index ``t * rows * cols + y * cols + x``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VideoGrid:
    """Shape of a video in tokens: ``frames`` (or temporal slices) of ``rows`` x ``cols`` tokens each."""

    frames: int
    rows: int
    cols: int

    def __post_init__(self) -> None:
        for name in ("frames", "rows", "cols"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidValueError(f"VideoGrid.{name} must be an integer of at least 1, got {value!r}")

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one frame."""
        return self.rows * self.cols

    @property
    def tokens(self) -> int:
        """Tokens of the whole video."""
        return self.frames * self.rows * self.cols


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of one video on their way to the language model.

    Args:
        features: ``(tokens, channels)`` float tensor, in flat-index order.
        grid: the full grid the tokens come from.
        signals: named tensors a method may ask for (``needs``), e.g. ``saliency`` (frames, rows, cols);
            any mapping will do, so a model can compute them when first asked.
        pts_seconds: presentation time of every frame, ``grid.frames`` numbers, or None when unknown.
        size: ``(tokens,)`` float32, how many original tokens each row already stands for; None means one each.
    """

    features: torch.Tensor
    grid: VideoGrid
    signals: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    pts_seconds: tuple[float, ...] | None = None
    size: torch.Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.features.shape)
        if len(shape) != 2 or shape[0] != self.grid.tokens:
            raise InvalidValueError(
                f"features must be (tokens, channels) with {self.grid.tokens} tokens for {self.grid}, got {shape}"
            )
        if not isinstance(self.signals, Mapping):
            raise InvalidTypeError(f"signals must map names to tensors, got {type(self.signals).__name__}")
        if self.pts_seconds is not None and len(self.pts_seconds) != self.grid.frames:
            raise InvalidValueError(
                f"pts_seconds must hold one time per frame ({self.grid.frames}), got {len(self.pts_seconds)}"
            )
        if self.size is not None and tuple(self.size.shape) != (self.grid.tokens,):
            raise InvalidValueError(
                f"size must be (tokens,) = ({self.grid.tokens},), got {tuple(self.size.shape)}"
            )

    @classmethod
    def from_grid(
        cls,
        features: torch.Tensor,
        signals: Mapping[str, torch.Tensor] | None = None,
        pts_seconds: tuple[float, ...] | None = None,
    ) -> VisualTokens:
        """Wrap ``features`` of shape (frames, rows, cols, channels) without copying them."""
        if not hasattr(features, "is_floating_point"):
            raise InvalidTypeError(
                f"features must be a torch tensor (frames, rows, cols, channels), got {type(features).__name__}"
            )
        if features.ndim != 4 or 0 in features.shape:
            raise InvalidValueError(
                "features must be a non-empty (frames, rows, cols, channels) tensor, "
                f"got shape {tuple(features.shape)}"
            )
        if not features.is_floating_point():
            raise InvalidTypeError(f"features must be floating point, got {features.dtype}")
        frames, rows, cols, channels = features.shape
        flat = features.reshape(frames * rows * cols, channels)
        return cls(flat, VideoGrid(frames, rows, cols), signals or {}, pts_seconds)

    def __len__(self) -> int:
        return self.grid.tokens

    @property
    def frames(self) -> torch.Tensor:
        """Features as (frames, tokens per frame, channels)."""
        return self.features.reshape(self.grid.frames, self.grid.tokens_per_frame, -1)

    def signal(self, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
        """Return signal ``name`` after checking its shape (None in ``shape`` = any size) and values.

        Raises SignalError, naming the expected shape, when it is absent, shaped otherwise or not finite.
        """
        import torch

        wanted = "(" + ", ".join("*" if n is None else str(n) for n in shape) + ")"
        try:
            value = self.signals[name]
        except KeyError:
            have = ", ".join(sorted(self.signals)) or "none"
            raise SignalError(
                f"signal {name!r} of shape {wanted} is needed and was not given (given: {have}). "
                f"Pass signals={{{name!r}: tensor}}, or choose a method that does not need it."
            ) from None
        if not isinstance(value, torch.Tensor):
            raise SignalError(
                f"signal {name!r} must be a torch tensor of shape {wanted}, got {type(value).__name__}"
            )
        got = tuple(value.shape)
        if len(got) != len(shape) or any(n is not None and n != g for n, g in zip(shape, got, strict=True)):
            raise SignalError(f"signal {name!r} must have shape {wanted}, got {got}")
        if not bool(torch.isfinite(value).all()):
            raise SignalError(f"signal {name!r} must be finite; it holds NaN or inf")
        return value


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
    """

    grid: VideoGrid
    index: torch.Tensor
    features: torch.Tensor
    order: torch.Tensor
    entries: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    size_in: torch.Tensor | None = field(default=None, repr=False)

    @classmethod
    def identity(cls, tokens: VisualTokens) -> Reduction:
        """Keep every token; ``features`` is the very same tensor."""
        import torch

        index = torch.arange(len(tokens), device=tokens.features.device)
        return cls(tokens.grid, index, tokens.features, index, None, tokens.size)

    @classmethod
    def select(cls, tokens: VisualTokens, emitted: torch.Tensor) -> Reduction:
        """Keep the tokens with flat indices ``emitted`` (in any order; -1 = a zero row) unchanged."""
        import torch

        # zero rows sort last: they have no place in the video
        index, row_to_emitted = torch.sort(torch.where(emitted < 0, tokens.grid.tokens, emitted), stable=True)
        order = torch.empty_like(row_to_emitted)
        order[row_to_emitted] = torch.arange(len(order), device=order.device)
        zero = index >= tokens.grid.tokens
        features = tokens.features[index.clamp(max=tokens.grid.tokens - 1)]
        if bool(zero.any()):
            features = features.masked_fill(zero[:, None], 0.0)
            index = index.masked_fill(zero, -1)
        return cls(tokens.grid, index, features, order, None, tokens.size)

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
            features = _weighted_sum(entries, tokens.features, len(index))
        return cls(tokens.grid, index, features, order, entries, tokens.size)

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
        """Carry per-token ``values`` (tokens, ...) through the reduction: (kept, ...), merged like the features.

        Sums are accumulated in float32 (float64 values: in float64) and returned in the dtype of ``values``; an identity returns ``values``.
        """
        self._check_length(values)
        if self.is_identity:
            return values
        if self.entries is None:
            return self.take(values)
        flat = values.reshape(self.grid.tokens, -1)
        return _weighted_sum(self.entries, flat, len(self)).reshape(len(self), *values.shape[1:])

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
                f"values must have one row per token of {self.grid} ({self.grid.tokens}), got {values.shape[0]}"
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


def _weighted_sum(
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
