"""What methods want to know from inside a vision tower that merges patches to tokens at its very end (Qwen).

Hooks read the input of a few attention modules and make queries and keys from it once more; the tower keeps
its own fast attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.ops.attention import frame_query_attention, mean_attention
from streamprune.ops.rotary import rotate
from streamprune.tokens import VideoGrid

_RECEIVED = {"received_attention": 1.0, "received_attention_middle": 0.5, "received_attention_shallow": 0.25}
_IN_LAYERS = (*_RECEIVED, "saliency", "keys")


@dataclass(frozen=True)
class MergedOrder:
    """How the rows inside the tower become tokens.

    Attributes:
        grid: slices, rows and columns of tokens.
        patches: consecutive rows of one token.
        places: (tokens,) where each token of the grid stands among the tower's; None when in order.
    """

    grid: VideoGrid
    patches: int
    places: torch.Tensor | None = None

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, ...) of the tower to (slices, rows, cols, ...): the mean over the patches of each token."""
        return self.in_grid(rows.reshape(-1, self.patches, *rows.shape[1:]).mean(1))

    def in_grid(self, merged: torch.Tensor) -> torch.Tensor:
        """(tokens, ...) in the tower's order to (slices, rows, cols, ...)."""
        ordered = merged if self.places is None else merged[self.places]
        return ordered.reshape(self.grid.frames, self.grid.rows, self.grid.cols, *merged.shape[1:])


class PatchMergerTower:
    """Computes named signals of one Qwen vision tower, (slices, rows, cols) of tokens.

    * ``received_attention``: attention a token receives in the last block, averaged over heads, over the
      queries of its slice and over its patches; ``received_attention_middle`` and
      ``received_attention_shallow``: in the block half and a quarter of the way up. Of a tower with window
      attention only blocks that see a whole slice count: the nearest one is taken, the lower of two.
    * ``saliency``: attention of the slice's mean query to the mean key of each token in the last such block,
      which stands in for a summary token; see
      :func:`streamprune.ops.attention.frame_query_attention`.
    * ``keys`` (..., head width): keys of that block before rotation, averaged over heads and patches.
    """

    def __init__(self, tower: Any, whole_slices: Sequence[int] | None = None) -> None:
        """``whole_slices`` are the blocks that see a whole slice, None for all of them."""
        self._blocks = list(tower.blocks)
        seeing = range(len(self._blocks)) if whole_slices is None else whole_slices
        self._seeing = sorted(number for number in seeing if 0 <= number < len(self._blocks))

    def names(self) -> tuple[str, ...]:
        """Signals this tower can give."""
        return _IN_LAYERS if self._seeing else ()

    def block_of(self, name: str) -> int:
        """Index of the block that gives signal ``name``."""
        aim = _RECEIVED.get(name, 1.0) * self._seeing[-1]
        return min(self._seeing, key=lambda number: (abs(number - aim), number))

    @contextmanager
    def watch(self, names: Sequence[str], order: MergedOrder) -> Iterator[dict[str, torch.Tensor]]:
        """Yield a dict that holds every signal of ``names`` once the tower has run inside the block."""
        found: dict[str, torch.Tensor] = {}
        plan: dict[int, list[str]] = {}
        for name in names:
            plan.setdefault(self.block_of(name), []).append(name)
        with ExitStack() as hooks:
            for number, wanted in plan.items():
                reader = _reader(wanted, order, found)
                attention = self._blocks[number].attn
                hooks.callback(attention.register_forward_pre_hook(reader, with_kwargs=True).remove)
            yield found


def _reader(wanted: Sequence[str], order: MergedOrder, found: dict[str, torch.Tensor]) -> Callable[..., None]:
    """A hook on one attention module that computes the signals wanted of it."""

    @torch.no_grad()
    def read(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        projected = module.qkv(states).unflatten(-1, (3, module.num_heads, -1))
        queries, keys = projected[:, 0], projected[:, 1]
        if "keys" in wanted:
            found["keys"] = order.tokens(keys.float().mean(1)).to(keys.dtype)
        tables = [table[:, None].float() for table in kwargs["position_embeddings"]]
        # as the tower does: turned in float32, kept in the model's numbers
        queries, keys = (rotate(rows.float(), *tables).to(rows.dtype) for rows in (queries, keys))
        slices = order.grid.frames
        if "saliency" in wanted:
            scores = frame_query_attention(queries, keys, slices, rows_per_token=order.patches)
            found["saliency"] = order.in_grid(scores.flatten())
        received = [name for name in wanted if name in _RECEIVED]
        if received:
            by_slice = [rows.reshape(slices, -1, *rows.shape[1:]).transpose(1, 2) for rows in (queries, keys)]
            scores = mean_attention(by_slice[0], by_slice[1], float(module.scaling))
            scores = order.tokens(scores.flatten())
            found.update(dict.fromkeys(received, scores))

    return read
