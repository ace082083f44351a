"""When and where the frames of a stream stood of which single tokens are left: thousands, after a while."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from streamprune.cache.block import Block
from streamprune.cache.context import GapRule

Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FrameTable:
    """One row for each frame, in the order of the stream; changes make another table.

    Attributes:
        numbers: (frames,) ascending.
        seconds: (frames, 2) where each begins and ends.
        begins, spans: (frames, axes) as of a :class:`Block`.
        tokens: (frames,) that each came with.
    """

    numbers: Whole
    seconds: NDArray[np.float64]
    begins: Whole
    spans: Whole
    tokens: Whole

    @classmethod
    def empty(cls, axes: int) -> FrameTable:
        """Without frames."""
        none, places = np.zeros(0, np.int64), np.zeros((0, axes), np.int64)
        return cls(none, np.zeros((0, 2)), places, places, none)

    def __len__(self) -> int:
        return len(self.numbers)

    def with_frame(self, block: Block) -> FrameTable:
        """And ``block`` behind the others."""
        return FrameTable(
            np.append(self.numbers, block.number),
            np.append(self.seconds, [[block.start_seconds, block.stop_seconds]], 0),
            np.append(self.begins, [block.begin], 0),
            np.append(self.spans, [block.span], 0),
            np.append(self.tokens, block.tokens),
        )

    def keep(self, numbers: Whole) -> FrameTable:
        """Those of ``numbers``, and the last one, after which the stream goes on."""
        stay = np.isin(self.numbers, numbers)
        stay[-1:] = True
        return FrameTable(*(getattr(self, field.name)[stay] for field in fields(self)))

    def lengthen_last(self, stop_seconds: float) -> None:
        """Let the last frame stand for the time until ``stop_seconds``."""
        self.seconds[-1, 1] = stop_seconds

    def rows_of(self, numbers: torch.Tensor) -> torch.Tensor:
        """Int64 row of each of ``numbers``, in their shape."""
        own = torch.from_numpy(self.numbers).to(numbers.device)
        return torch.searchsorted(own, numbers.long().contiguous())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies for a file."""
        return {field.name: torch.from_numpy(getattr(self, field.name).copy()) for field in fields(self)}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> FrameTable:
        """What :meth:`tensors` gave."""
        return cls(**{field.name: tensors[field.name].cpu().numpy().copy() for field in fields(cls)})


def stood_apart(begins: Whole, spans: Whole, gap: GapRule) -> tuple[Whole, Whole]:
    """(blocks, axes) where each begins, and (axes,) where what follows does.

    The same as :func:`~streamprune.cache.context.places`, for many.

    Args:
        begins, spans: (blocks, axes) of the stream, in its order.
    """
    free = np.maximum(0, begins[1:] - begins[:-1] - spans[:-1])
    if gap.rule == "compact":
        free[:] = 0
    elif gap.rule == "clipped":
        free = np.minimum(free, (gap.max_gap_frames * spans[1:]).astype(np.int64))
    steps = np.concatenate([begins[:1], spans[:-1] + free])
    found = steps.cumsum(0)
    return found, found[-1] + spans[-1]
