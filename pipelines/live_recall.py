"""What an answer is given from: copied out of a stream's memory, all of one moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from streamprune.cache.block import FeatureBlock
from streamprune.cache.context import Context
from streamprune.cache.working import WorkingCache
from streamprune.models.stream_model import Chunk
from streamprune.pipelines.live_ingest import Ingest

# a frame may be remembered while the question is read; so often that is begun again
_MOST_TRIES = 3


@dataclass
class Recalled:
    """What stands in the working copy of an answer.

    Attributes:
        frames: frames of tokens that the stream had taken in.
        seconds: of the oldest moment that was represented, and of the newest; empty when not known.
        end: (axes,) where the last frame ends.
        tokens: that the working copy holds.
        read_tokens: that the model read to know what to recall, or anew.
        ms: what that took.
    """

    frames: int
    seconds: tuple[float, ...]
    end: tuple[int, ...]
    tokens: int = 0
    read_tokens: int = 0
    ms: float = 0.0


def recall(
    ingest: Ingest, tail: Chunk, cache: WorkingCache, stop: threading.Event, *, asks: bool
) -> Recalled:
    """Fill ``cache`` with what the memory recalls.

    The memory is held still while it is copied, and while a question is read only where frames come so fast
    that it would never be done.

    Args:
        tail: the question.
        stop: ends the reading of remembered frames.
        asks: whether the memory wants the question's queries.
    """
    started, read, taken = time.perf_counter(), 0, None
    for _ in range(_MOST_TRIES if asks else 0):
        with ingest.state_lock:
            number, end = ingest.number, _fill(ingest.memory.question_context(), cache)
        queries = _queries(ingest, tail, end, cache)
        read += len(tail)
        with ingest.state_lock:
            if ingest.number == number:
                taken = _take(ingest, queries, cache)
                break
    if taken is None:
        with ingest.state_lock:
            asked = None
            if asks:
                asked = _queries(ingest, tail, _fill(ingest.memory.question_context(), cache), cache)
                read += len(tail)
            taken = _take(ingest, asked, cache)
    found, blocks = taken
    if blocks:
        found.end = _read_anew(ingest, blocks, found.end, cache, stop)
        read += sum(block.tokens for block in blocks)
    found.tokens, found.read_tokens = cache.length, read
    found.ms = 1000 * (time.perf_counter() - started)
    return found


def _fill(context: Context, cache: WorkingCache) -> tuple[int, ...]:
    cache.fill(context)
    return context.end


def _queries(ingest: Ingest, tail: Chunk, end: tuple[int, ...], cache: WorkingCache) -> torch.Tensor | None:
    with ingest.family.lock:
        place = ingest.model.tail_place(ingest.grid, end)
        return ingest.model.read(tail, place, cache, queries=True).queries


def _take(
    ingest: Ingest, queries: torch.Tensor | None, cache: WorkingCache
) -> tuple[Recalled, list[FeatureBlock]]:
    """Copy what is recalled, and frames that have to be read anew; called with the memory held still."""
    memory, found, blocks = ingest.memory, ingest.memory.recall(queries), []
    if isinstance(found, Context):
        end = _fill(found, cache)
    else:
        end, blocks = _fill(memory.context(), cache), _copied(ingest, found)
    oldest = memory.remembers_from()
    newest = ingest.newest_seconds
    seconds = () if oldest is None or newest is None else (oldest, newest)
    return Recalled(ingest.number, seconds, end), blocks


def _copied(ingest: Ingest, blocks: Sequence[FeatureBlock]) -> list[FeatureBlock]:
    ingest.ledger.take("working", _storage(blocks))
    return [
        replace(
            block,
            features=block.features.clone(),
            cells=block.cells.clone(),
            carried=None if block.carried is None else block.carried.clone(),
            sizes=None if block.sizes is None else block.sizes.clone(),
        )
        for block in blocks
    ]


def _read_anew(
    ingest: Ingest,
    blocks: Sequence[FeatureBlock],
    end: tuple[int, ...],
    cache: WorkingCache,
    stop: threading.Event,
) -> tuple[int, ...]:
    """Let the model read ``blocks`` behind the head, a frame at a time; where the last one ends."""
    try:
        for block in blocks:
            if stop.is_set():
                break
            with ingest.family.lock:
                chunk = ingest.model.of_block(ingest.grid, block)
                if len(chunk):
                    ingest.model.read(chunk, end, cache)
            end = tuple(at + wide for at, wide in zip(end, chunk.span, strict=True))
    finally:
        ingest.ledger.give("working", _storage(blocks))
    return end


def _storage(blocks: Sequence[FeatureBlock]) -> int:
    """Bytes of copies of ``blocks``, each tensor for itself."""
    return sum(tensor.nbytes for block in blocks for tensor in block.tensors)
