"""Single tokens of many frames: each layer, or each of its heads, holds a choice of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from streamprune.cache.block import Block, CacheShape
from streamprune.cache.context import Context, GapRule, places
from streamprune.cache.frame_table import FrameTable, stood_apart
from streamprune.cache.kv_memory import Holding
from streamprune.cache.ledger import Ledger, Tier
from streamprune.cache.memory import TierReport
from streamprune.cache.rotation import Rotation
from streamprune.ops.selection import entries_at

# rows of the labels of a token; the offsets of its axes follow
FRAME, CELL, OFFSETS = 0, 1, 2


class TokenStore(Holding):
    """Room for ``capacity`` tokens of each layer and head, taken once and for all.

    Args:
        tier: in which it is counted.
        ledger: that is asked.
        shape: of keys and values.
        capacity: tokens.
        per_head: heads choose for themselves, not only layers.

    Attributes:
        count: tokens held now, equally many in every layer and head, in the order of the stream.
        keys, values: (layers, kv_heads, capacity, head_dim), keys before rotation.
        labels: (2 + axes, layers, kv_heads or 1, capacity) int32: number of the frame, cell, offsets.
        frames: those of which a token is left, and the last one.
    """

    def __init__(
        self, tier: Tier, ledger: Ledger, shape: CacheShape, capacity: int, *, per_head: bool = False
    ) -> None:
        heads = shape.kv_heads if per_head else 1
        ledger.take(tier, store_bytes(shape, capacity, per_head=per_head))
        size = shape.layers, shape.kv_heads, capacity, shape.head_dim
        self.keys = torch.zeros(size, dtype=shape.dtype, device=shape.device)
        self.values = torch.zeros(size, dtype=shape.dtype, device=shape.device)
        self.labels = torch.zeros(
            OFFSETS + shape.axes, shape.layers, heads, capacity, dtype=torch.int32, device=shape.device
        )
        self.capacity, self.count = capacity, 0
        self.frames = FrameTable.empty(shape.axes)
        self.nbytes = sum(tensor.nbytes for tensor in (self.keys, self.values, self.labels))
        self._tier, self._ledger = tier, ledger

    @property
    def layers(self) -> int:
        """Of the model."""
        return len(self.keys)

    def held(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of the keys, values and labels of ``layer`` that are held."""
        some = slice(0, self.count)
        return self.keys[layer, :, some], self.values[layer, :, some], self.labels[:, layer, :, some]

    def add(self, block: Block) -> None:
        """Put its tokens behind the others; there must be room for them."""
        some = slice(self.count, self.count + block.tokens)
        self.keys[:, :, some] = block.keys
        self.values[:, :, some] = block.values
        self.labels[FRAME, :, :, some] = block.number
        self.labels[CELL, :, :, some] = block.cells
        self.labels[OFFSETS:, :, :, some] = block.offsets[:, None, None]
        self.count += block.tokens
        self.frames = self.frames.with_frame(block)

    def append(self, keys: torch.Tensor, values: torch.Tensor, labels: torch.Tensor) -> None:
        """Put one token of a known frame behind the others.

        Args:
            keys, values: (layers, kv_heads, head_dim).
            labels: (2 + axes, layers).
        """
        self.keys[:, :, self.count] = keys.to(self.keys.dtype)
        self.values[:, :, self.count] = values.to(self.values.dtype)
        self.labels[..., self.count] = labels[..., None]
        self.count += 1

    def keep(self, index: torch.Tensor) -> None:
        """Hold the tokens ``index`` (layers, kv_heads or 1, kept) int64, ascending, and no others."""
        kept = index.shape[-1]
        for layer in range(self.layers):
            keys, values, labels = self.held(layer)
            own = index[layer].expand(len(keys), -1)
            for held in (keys, values):
                held[:, :kept] = entries_at(held, own)
            wide = index[layer].expand(labels.shape[0], -1, -1)
            labels[..., :kept] = labels.gather(-1, wide)
        self.count = kept
        left = torch.unique(self.labels[FRAME, :, :, :kept])
        self.frames = self.frames.keep(left.long().cpu().numpy())

    def reports(self) -> Mapping[Tier, TierReport]:
        """All of it, also what is free."""
        if not self.count:
            return {self._tier: TierReport(self.nbytes, 0, 0)}
        time = float(self.frames.seconds[0, 0]), float(self.frames.seconds[-1, 1])
        return {self._tier: TierReport(self.nbytes, self.count, len(self.frames), *time)}

    def tensors(self) -> Iterator[torch.Tensor]:
        """The buffers, until they are closed."""
        if self.capacity:
            yield from (self.keys, self.values, self.labels)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What is held."""
        some = slice(0, self.count)
        tensors = {name: getattr(self, name)[..., some, :].contiguous() for name in ("keys", "values")} | {
            "labels": self.labels[..., some].contiguous()
        }
        return tensors | {f"frames.{name}": part for name, part in self.frames.tensors().items()}, {}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        self.clear()
        self.count = int(tensors["labels"].shape[-1])
        some = slice(0, self.count)
        self.keys[..., some, :] = tensors["keys"].to(self.keys)
        self.values[..., some, :] = tensors["values"].to(self.values)
        self.labels[..., some] = tensors["labels"].to(self.labels)
        self.frames = FrameTable.of_tensors(
            {
                name.removeprefix("frames."): part
                for name, part in tensors.items()
                if name.startswith("frames.")
            }
        )

    def clear(self) -> None:
        """Forget all tokens; the room for them stays taken."""
        self.count = 0
        self.frames = FrameTable.empty(self.labels.shape[0] - OFFSETS)

    def close(self) -> None:
        """Free the room, too."""
        self.clear()
        self._ledger.give(self._tier, self.nbytes)
        self.nbytes = self.capacity = 0
        self.keys, self.values = self.keys.new_empty(0), self.values.new_empty(0)
        self.labels = self.labels.new_empty(0)


def store_bytes(shape: CacheShape, capacity: int, *, per_head: bool = False) -> int:
    """Bytes of a store for ``capacity`` tokens."""
    heads = shape.kv_heads if per_head else 1
    return capacity * (shape.token_bytes + 4 * shape.layers * heads * (OFFSETS + shape.axes))


class TokenContext(Context):
    """The head of the prompt, tokens of a store, and blocks that came after them.

    Frames stand as far apart as the rule says. Under "compact", where there is one axis, the tokens of the
    store stand one behind the other, whatever frames they are from.

    Args:
        head: of the prompt.
        store: as long as nothing is written to it.
        gap: the rule.
        rotation: of the model.
        blocks: whole ones, after the store's.
        chosen: (layers, kept) int64, tokens of the store; None = all.
    """

    def __init__(
        self,
        head: Block,
        store: TokenStore,
        gap: GapRule,
        rotation: Rotation,
        blocks: Sequence[Block] = (),
        chosen: torch.Tensor | None = None,
    ) -> None:
        self._head, self._store, self._blocks = head, store, blocks
        self._rotation, self._chosen = rotation, chosen
        count = store.count if chosen is None else chosen.shape[-1]
        self.tokens = head.tokens + count + sum(block.tokens for block in blocks)
        self._in_a_row = gap.rule == "compact" and len(head.begin) == 1
        if self._in_a_row:
            begins = [head.begin, *(block.begin for block in blocks)]
            found, self.end = places(
                begins, [(head.span[0] + count,), *(block.span for block in blocks)], gap
            )
            self._begins, self._after = torch.tensor(found[:1]) + head.span[0], [list(at) for at in found[1:]]
        else:
            frames, axes = store.frames, len(head.begin)
            after = np.array([[block.begin, block.span] for block in blocks], np.int64).reshape(-1, 2, axes)
            stand, end = stood_apart(
                np.concatenate([np.array([head.begin]), frames.begins, after[:, 0]]),
                np.concatenate([np.array([head.span]), frames.spans, after[:, 1]]),
                gap,
            )
            self.end = tuple(end.tolist())
            # (frames, axes)
            self._begins = torch.from_numpy(stand[1 : 1 + len(frames)])
            self._after = stand[1 + len(frames) :].tolist()

    def positions(self, layer: int) -> torch.Tensor:
        """(axes, kv_heads or 1, tokens) int64, where the tokens of ``layer`` stand."""
        labels = self._labels(layer)
        device, heads = labels.device, labels.shape[1]
        if self._in_a_row:
            row = torch.arange(labels.shape[-1], device=device) + self._begins.to(device)
            stored = row.expand(1, heads, -1)
        else:
            rows = self._store.frames.rows_of(labels[FRAME])
            stored = self._begins.to(device)[rows].movedim(-1, 0) + labels[OFFSETS:]
        before = self._head.offsets + torch.tensor(self._head.begin, device=device)[:, None]
        after = [
            block.offsets + torch.tensor(place, device=device)[:, None]
            for block, place in zip(self._blocks, self._after, strict=True)
        ]
        wide = [part[:, None].expand(-1, heads, -1) for part in (before, *after)]
        return torch.cat([wide[0], stored, *wide[1:]], -1)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """As the base class says."""
        parts = self._parts(layer)
        values.copy_(torch.cat([part for _, part in parts], 1))
        keys.copy_(self.rotated_keys(layer))

    def rotated_keys(self, layer: int) -> torch.Tensor:
        """(kv_heads, tokens, head_dim)."""
        unrotated = torch.cat([part for part, _ in self._parts(layer)], 1)
        return self._rotation.turned(unrotated[None], self.positions(layer)[:, None])[0]

    def attention(
        self,
        layer: int,
        queries: torch.Tensor,
        places: torch.Tensor,
        *,
        first: int = 0,
        unseen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(tokens - first,) float32: attention received from ``queries``, mean over them and over heads.

        Args:
            queries: (query_heads, rows, head_dim) before rotation.
            places: (axes, rows) where they stand.
            first: the softmax is over the tokens from this one on.
            unseen: (rows, tokens - first) bool, what a query does not see.
        """
        keys = self.rotated_keys(layer)[:, first:].float()
        turned = self._rotation.turned(queries[None].float(), places[:, None, None])[0]
        grouped = turned.reshape(len(keys), -1, *turned.shape[1:]) * keys.shape[-1] ** -0.5
        total = torch.zeros(keys.shape[1], device=keys.device)
        for heads, own in zip(grouped, keys, strict=True):
            logits = heads @ own.T
            if unseen is not None:
                logits.masked_fill_(unseen, -torch.inf)
            total += torch.softmax(logits, -1).mean((0, 1))
        return total / len(keys)

    def _parts(self, layer: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Unrotated keys and values of the head, the store and the blocks."""
        keys, values, _ = self._store.held(layer)
        if self._chosen is not None:
            keys, values = keys[:, self._chosen[layer]], values[:, self._chosen[layer]]
        return [self._head.read(layer), (keys, values), *(block.read(layer) for block in self._blocks)]

    def _labels(self, layer: int) -> torch.Tensor:
        labels = self._store.held(layer)[2]
        return labels if self._chosen is None else labels[..., self._chosen[layer]]
