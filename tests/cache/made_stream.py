"""Streams of made-up keys and values, without a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from streamprune.cache.block import Block, CacheShape, FeatureBlock
from streamprune.cache.context import Context
from streamprune.cache.ledger import Ledger
from streamprune.cache.memory import Heard, MemoryMethod, Room, StreamMemory
from streamprune.cache.rotation import Rotation
from streamprune.ops.rotary import sectioned_axes

LAYERS, QUERY_HEADS, KV_HEADS, DIM, COLS = 2, 4, 2, 8, 4
HEAD_TOKENS = 3


class Rotary:
    """Tables of cosines and sines as a model's module makes them, for one axis or three."""

    attention_scaling = 1.0

    def forward(self, like: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows, entries, DIM) each, of ``ids`` (rows, entries) or (3, rows, entries)."""
        frequencies = 100.0 ** (-torch.arange(0, DIM, 2) / DIM)
        if ids.ndim == 3:
            angles = ids.movedim(0, -1)[..., sectioned_axes([2, 1, 1])].float() * frequencies
        else:
            angles = ids[..., None].float() * frequencies
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()


def made_room(
    memory_bytes: int,
    *,
    axes: int = 1,
    dtype: torch.dtype = torch.float32,
    tokens_per_frame: int = 12,
    ledger: Ledger | None = None,
    **options: Any,
) -> Room:
    """A room whose ledger has space for the head of the prompt beside ``memory_bytes``."""
    shape = CacheShape(LAYERS, QUERY_HEADS, KV_HEADS, DIM, axes, dtype, torch.device("cpu"))
    head_bytes = made_head(axes=axes, dtype=dtype).nbytes
    ledger = ledger or Ledger(memory_bytes + head_bytes)
    options = {"cols": COLS, "feature_bytes": 4 * DIM, "context_tokens": 60} | options
    return Room(shape, Rotation(Rotary()), ledger, memory_bytes, tokens_per_frame, **options)


def made_block(
    number: int,
    tokens: int = 12,
    *,
    axes: int = 1,
    dtype: torch.dtype = torch.float32,
    text: int = 0,
    grid_tokens: int | None = None,
    seconds: float = 1.0,
) -> Block:
    """A frame of a stream whose frames are ``seconds`` apart; its numbers depend on ``number`` alone.

    Args:
        text: so many of its tokens are text, the first ones.
        grid_tokens: of the whole frame, of which ``tokens`` - ``text`` are left; None = all are.
    """
    generator = torch.Generator().manual_seed(1000 + number)
    grid = tokens - text if grid_tokens is None else grid_tokens
    cells = torch.randperm(grid, generator=generator)[: tokens - text].sort().values
    size = (2, LAYERS, KV_HEADS, tokens, DIM)
    keys, values = torch.randn(size, generator=generator).to(dtype).unbind(0)
    begin: tuple[int, ...]
    span: tuple[int, ...]
    if axes == 1:
        offsets = torch.cat([torch.arange(text), text + cells])[None]
        begin, span = (HEAD_TOKENS + number * (text + grid),), (text + grid,)
    else:
        places = torch.stack([torch.zeros_like(cells), cells // COLS, cells % COLS])
        offsets = torch.cat([torch.arange(text).expand(3, -1), text + places], 1)
        begin, span = (HEAD_TOKENS + number * (text + 1), HEAD_TOKENS, HEAD_TOKENS), (text + 1, text, text)
    return Block(
        number,
        number * seconds,
        (number + 1) * seconds,
        keys.clone(),
        values.clone(),
        offsets.int().clone(),
        begin,
        span,
        torch.cat([torch.full((text,), -1), cells]).int(),
        float(torch.rand((), generator=generator)),
    )


def made_head(*, axes: int = 1, dtype: torch.dtype = torch.float32) -> Block:
    """The head of a prompt."""
    head = made_block(-1, HEAD_TOKENS, text=HEAD_TOKENS, dtype=dtype)
    offsets = torch.arange(HEAD_TOKENS, dtype=torch.int32).expand(axes, -1).clone()
    return replace(head, number=-1, offsets=offsets, begin=(0,) * axes, span=(HEAD_TOKENS,) * axes)


def made_features(number: int, tokens: int = 12, grid_tokens: int = 12) -> FeatureBlock:
    """The same for memories of visual tokens."""
    generator = torch.Generator().manual_seed(1000 + number)
    cells = torch.randperm(grid_tokens, generator=generator)[:tokens].sort().values.int()
    features = torch.randn(tokens, DIM, generator=generator)
    return FeatureBlock(number, float(number), number + 1.0, features, cells)


def heard(block: Block) -> Heard:
    """Queries of every kind that a memory may want."""
    generator = torch.Generator().manual_seed(5000 + block.number)
    chunk = torch.randn(LAYERS, QUERY_HEADS, block.tokens, DIM, generator=generator)
    return Heard(chunk, torch.randn(LAYERS, QUERY_HEADS, 2, DIM, generator=generator))


def question(seed: int = 0, tokens: int = 3) -> torch.Tensor:
    """Queries of a question."""
    generator = torch.Generator().manual_seed(9000 + seed)
    return torch.randn(LAYERS, QUERY_HEADS, tokens, DIM, generator=generator)


def begun(method: MemoryMethod, room: Room) -> StreamMemory:
    """A memory that holds the head of the prompt."""
    memory = method.begin(room)
    memory.sinks(made_head(axes=room.shape.axes, dtype=room.shape.dtype))
    return memory


def written(context: object) -> torch.Tensor:
    """(2, LAYERS, KV_HEADS, tokens, DIM) rotated keys and values of a context."""
    assert isinstance(context, Context)
    found = torch.full((2, LAYERS, KV_HEADS, context.tokens, DIM), torch.nan)
    for layer in range(LAYERS):
        context.write(layer, found[0, layer], found[1, layer])
    assert bool(found.isfinite().all())
    return found
