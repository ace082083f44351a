"""What methods want to know from inside a vision tower that merges patches to tokens at its very end.

Hooks read the input of a few attention modules and make queries, keys and values from it once more; the tower
keeps its own fast attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from streamprune.models.token_order import TokenOrder
from streamprune.models.tower_signals import EVERY_LAYER, LAYER_SCORES, projector_sensitivity
from streamprune.ops.attention import frame_query_attention
from streamprune.ops.rotary import rotate

# how far up the tower the block is that gives them
_HEIGHT = {"received_attention_middle": 0.5, "received_attention_shallow": 0.25}
_IN_BLOCKS = ("saliency", "received_attention", *_HEIGHT, "context_attention", "keys", *EVERY_LAYER)
_STATES = ("encoder_features", "early_features", "projector_sensitivity")


class PatchMergerTower:
    """Computes named signals of one vision tower of the Qwen kind; all have (slices, rows, cols) of tokens.

    * ``saliency``: attention of the slice's mean query to the mean key of each token in the last block, which
      stands in for a summary token; see :func:`streamprune.ops.attention.frame_query_attention`.
    * ``keys`` (..., head width): keys of that block before rotation, averaged over heads and patches.
    * ``received_attention`` in that block, ``received_attention_middle`` and ``received_attention_shallow``
      in the block half and a quarter of the way up, ``context_attention``, ``layer_saliency``,
      ``layer_value_similarity``, ``layer_value_norm``: as in :class:`TowerSignals` for a tower without a
      summary token, per slice, averaged over the patches of a token.
    * ``encoder_features``, ``early_features`` (..., width): what the merger reads and what the first block
      puts out, averaged over patches.
    * ``projector_sensitivity``: how strongly the merger answers to small changes of a token's patches.

    Of a tower with window attention only blocks that see a whole slice count as blocks here: the nearest one
    is taken, the lower of two, and the signals of every layer are those of these blocks.
    """

    def __init__(
        self,
        blocks: Iterable[Any],
        merger: Any,
        whole_slices: Sequence[int] | None = None,
        *,
        read: Any = None,
    ) -> None:
        """Take the parts of the tower.

        Args:
            blocks: first to last, each with its attention as ``attn`` or ``self_attn``.
            merger: makes the features, of the patches of each token one after another or of one row a token.
            whole_slices: the blocks that see a whole slice, None for all of them.
            read: what puts out what the merger reads, of a tower whose merger runs for each frame alone and
                takes the patches of a token side by side; None where the merger is called once.
        """
        self._merger = merger
        self._read = read
        self._blocks = list(blocks)
        seeing = range(len(self._blocks)) if whole_slices is None else whole_slices
        self._seeing = sorted(number for number in seeing if 0 <= number < len(self._blocks))

    def names(self) -> tuple[str, ...]:
        """Signals this tower can give."""
        return (*_IN_BLOCKS, *_STATES) if self._seeing else _STATES

    def blocks_of(self, name: str) -> list[int]:
        """The blocks whose attention gives signal ``name``."""
        if name in EVERY_LAYER:
            return self._seeing
        aim = _HEIGHT.get(name, 1.0) * self._seeing[-1]
        return [min(self._seeing, key=lambda number: (abs(number - aim), number))]

    @contextmanager
    def watch(self, names: Sequence[str], order: TokenOrder) -> Iterator[dict[str, torch.Tensor]]:
        """Yield a dict that holds every signal of ``names`` once the tower has run inside the block."""
        found: dict[str, torch.Tensor] = {}
        layers: dict[str, list[torch.Tensor]] = {name: [] for name in names if name in EVERY_LAYER}
        plan: dict[int, list[str]] = {}
        for name in names:
            for number in self.blocks_of(name) if name in _IN_BLOCKS else ():
                plan.setdefault(number, []).append(name)
        with ExitStack() as hooks:
            for number, wanted in plan.items():
                reader = _BlockReader(wanted, order, found, layers)
                attention = attention_of(self._blocks[number])
                hooks.callback(attention.register_forward_pre_hook(reader, with_kwargs=True).remove)
            for handle in self._watch_states(names, order, found):
                hooks.callback(handle.remove)
            yield found
        for name, rows in layers.items():
            found[name] = torch.stack(rows, 1)
        if "projector_sensitivity" in names:
            states = found["projector_sensitivity"]
            beside = order.grouped(states).reshape(order.grid.tokens, -1)
            at_once = order.patches(states) if self._read is None else 1
            found["projector_sensitivity"] = order.in_grid(
                projector_sensitivity(self._merger, beside, at_once)
            )

    def _watch_states(
        self, names: Sequence[str], order: TokenOrder, found: dict[str, torch.Tensor]
    ) -> Iterator[Any]:
        def take(states: torch.Tensor) -> None:
            found["encoder_features"] = order.tokens(states)
            found["projector_sensitivity"] = states  # to be scored when the tower is done

        def before_merger(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            take(args[0])

        def after_read(module: Any, args: Any, output: torch.Tensor) -> None:
            take(output.flatten(0, -2))

        def after_first(module: Any, args: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            found["early_features"] = order.tokens(states.flatten(0, -2))

        if {"encoder_features", "projector_sensitivity"} & set(names):
            if self._read is None:
                yield self._merger.register_forward_pre_hook(before_merger)
            else:
                yield self._read.register_forward_hook(after_read)
        if "early_features" in names:
            yield self._blocks[0].register_forward_hook(after_first)


def attention_of(block: Any) -> Any:
    """The attention module of a block."""
    return block.attn if hasattr(block, "attn") else block.self_attn


def projections(attention: Any, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of ``states`` (rows, width), each (rows, heads, head width), not rotated."""
    if hasattr(attention, "qkv"):
        queries, keys, values = attention.qkv(states).chunk(3, -1)
    else:
        names = ("q_proj", "k_proj", "v_proj") if hasattr(attention, "q_proj") else ("q", "k", "v")
        queries, keys, values = (getattr(attention, name)(states) for name in names)
    split = (len(states), int(attention.num_heads), -1)
    return queries.reshape(split), keys.reshape(split), values.reshape(split)


class _SliceRows:
    """Queries, keys and values of one block, each (slices, heads, patches, head width).

    :class:`AttentionRows` of a tower without a summary token.
    """

    summary = False

    def __init__(
        self, attention: Any, states: torch.Tensor, tables: Sequence[torch.Tensor] | None, slices: int
    ) -> None:
        queries, self.plain_keys, self._flat_values = projections(attention, states)
        self._slices = slices
        self.scaling = float(attention.scaling)
        self.flat = [queries, self.plain_keys]
        if tables is None:
            return
        cos, sin = (table[:, None].float() for table in tables)
        # as the tower does: turned in float32, kept in the model's numbers
        self.flat = [rotate(rows.float(), cos, sin).to(rows.dtype) for rows in (queries, self.plain_keys)]

    def queries(self) -> torch.Tensor:
        """After rotation."""
        return self._by_slice(self.flat[0])

    def keys(self) -> torch.Tensor:
        """After rotation."""
        return self._by_slice(self.flat[1])

    def values(self) -> torch.Tensor:
        """As they are."""
        return self._by_slice(self._flat_values)

    def of_patches(self, values: torch.Tensor) -> torch.Tensor:
        """All of them."""
        return values

    def summary_row(self, rows: torch.Tensor) -> torch.Tensor:
        """(slices, heads, 1, head width): the mean of all."""
        return rows.float().mean(2, keepdim=True)

    def _by_slice(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.reshape(self._slices, -1, *rows.shape[1:]).transpose(1, 2)


class _BlockReader:
    """A hook on one attention module that computes the signals wanted of it."""

    def __init__(
        self,
        wanted: Sequence[str],
        order: TokenOrder,
        found: dict[str, torch.Tensor],
        layers: dict[str, list[torch.Tensor]],
    ) -> None:
        self._wanted = wanted
        self._order = order
        self._found = found
        self._layers = layers

    @torch.no_grad()
    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        tables = kwargs.get("position_embeddings")
        rows = _SliceRows(module, states.flatten(0, -2), tables, self._order.grid.frames)
        for name in self._wanted:
            value = self._signal(name, rows)
            if name in self._layers:
                self._layers[name].append(value)
            else:
                self._found[name] = value

    def _signal(self, name: str, rows: _SliceRows) -> torch.Tensor:
        order = self._order
        if name == "keys":
            return order.tokens(rows.plain_keys.float().mean(1)).to(rows.plain_keys.dtype)
        if name == "saliency":
            queries, keys = (order.grouped(part) for part in rows.flat)
            patches = order.patches(queries)
            scores = frame_query_attention(queries, keys, order.grid.frames, rows_per_token=patches)
            return order.in_grid(scores.flatten())
        return order.tokens(LAYER_SCORES[name](rows).flatten())
