"""The nouns every stage speaks: the grid, the visual tokens on it, and what a reduction decided.

A method decides ONCE. The decision is a :class:`Reduction`, and everything that belongs to a token (features,
sizes, positions, time stamps) is carried through that one object, so they cannot disagree.

A token is named by its flat index ``t * rows * cols + y * cols + x``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError
from streamprune.reduction import Reduction

if TYPE_CHECKING:
    import torch

__all__ = ["QUESTION_SIGNALS", "Reduction", "VideoGrid", "VisualTokens"]

# signals that belong to a question: what a method keeps because of them suits that question alone
QUESTION_SIGNALS = ("text_embeds", "query_frame_attention")


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

    def places(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frame, row and column of each flat index, three tensors shaped like ``index``."""
        frame = index.div(self.tokens_per_frame, rounding_mode="floor")
        within = index - frame * self.tokens_per_frame
        row = within.div(self.cols, rounding_mode="floor")
        return frame, row, within - row * self.cols


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of one video on their way to the language model.

    Args:
        features: ``(tokens, channels)`` float tensor, in flat-index order.
        grid: the full grid the tokens come from.
        signals: named tensors a method may ask for (``needs``), e.g. ``saliency`` (frames, rows, cols);
            any mapping will do, so a model can compute them when first asked.
        pts_seconds: presentation time of every frame, ``grid.frames`` numbers, or None when unknown.
        size: ``(tokens,)`` float32, how many original tokens each row stands for already; None = one each.
        carried: ``(tokens, channels)`` what else belongs to each token and must share its fate, e.g. rows
            that a model adds to deeper layers; no method scores it.
    """

    features: torch.Tensor
    grid: VideoGrid
    signals: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)
    pts_seconds: tuple[float, ...] | None = None
    size: torch.Tensor | None = None
    carried: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = tuple(self.features.shape)
        if len(shape) != 2 or shape[0] != self.grid.tokens:
            raise InvalidValueError(
                f"features must be (tokens, channels) with {self.grid.tokens} tokens for {self.grid}, "
                f"got {shape}"
            )
        if not isinstance(self.signals, Mapping):
            raise InvalidTypeError(f"signals must map names to tensors, got {type(self.signals).__name__}")
        if self.pts_seconds is not None:
            _check_times(self.pts_seconds, self.grid.frames)
        if self.size is not None and tuple(self.size.shape) != (self.grid.tokens,):
            raise InvalidValueError(
                f"size must be (tokens,) = ({self.grid.tokens},), got {tuple(self.size.shape)}"
            )
        if self.carried is not None and len(self.carried) != self.grid.tokens:
            raise InvalidValueError(
                f"carried must have one row per token ({self.grid.tokens}), got {len(self.carried)}"
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
                "features must be a torch tensor (frames, rows, cols, channels), "
                f"got {type(features).__name__}"
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
        return cls(flat, VideoGrid(frames, rows, cols), {} if signals is None else signals, pts_seconds)

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
        if not all_finite(value):
            raise SignalError(f"signal {name!r} must be finite; it holds NaN or inf")
        return value


def all_finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite.

    One pass that adds up: the sum is NaN or infinite when a value is; a sum that overflowed without one is
    looked at value by value.
    """
    import torch

    total = values.sum(dtype=torch.float32) if values.is_floating_point() else values.new_zeros(())
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def _check_times(pts_seconds: object, frames: int) -> None:
    if not isinstance(pts_seconds, (tuple, list)):
        raise InvalidTypeError(f"pts_seconds must be a tuple of seconds, got {type(pts_seconds).__name__}")
    if len(pts_seconds) != frames:
        raise InvalidValueError(
            f"pts_seconds must hold one time per frame ({frames}), got {len(pts_seconds)}"
        )
    for time in pts_seconds:
        if not isinstance(time, Real) or not math.isfinite(time):
            raise InvalidValueError(f"pts_seconds must hold finite numbers of seconds, got {time!r}")
