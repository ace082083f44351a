"""A language model that reads a stream frame by frame, over whatever context it is given each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.cache.block import Block, CacheShape, FeatureBlock
from streamprune.cache.rotation import Rotation
from streamprune.cache.working import WorkingCache
from streamprune.errors import UnsupportedModelError
from streamprune.models.base import VideoFamily
from streamprune.models.stream_layout import StreamLayout, Written
from streamprune.ops.projections import heads_of
from streamprune.tokens import VideoGrid

_WHAT = "watching a stream"
# a stream has frames of one size; who asks about several sizes may go back and forth
_MOST_LAYOUTS = 4


@dataclass(frozen=True, eq=False)
class Chunk:
    """Tokens that the model reads together.

    Attributes:
        embeds: (1, tokens, width).
        ids: (tokens,) int64, placeholders where a frame's tokens stand.
        offsets: (axes, tokens) int64, positions counted from where the chunk begins.
        span: (axes,) positions it takes.
        cells: (tokens,) int32, place in the frame, -1 for text.
        deepstack: what is added to the frame's tokens after the first layers, (visual tokens, width) each.
    """

    embeds: torch.Tensor
    ids: torch.Tensor
    offsets: torch.Tensor
    span: tuple[int, ...]
    cells: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()

    def __len__(self) -> int:
        return int(self.ids.shape[0])


@dataclass(frozen=True, eq=False)
class Reading:
    """What a call of the model left.

    Attributes:
        logits: (vocabulary,) float32 of the last token.
        queries: (layers, query_heads, tokens, head_dim) float32 before rotation; None when not asked for.
        first: the cache's entries from this one on are new.
        places: (axes, tokens) int64, where they stand.
    """

    logits: torch.Tensor
    queries: torch.Tensor | None
    first: int
    places: torch.Tensor


class StreamModel:
    """The language model of ``family``. Whoever calls :meth:`read` holds ``family.lock``.

    Args:
        seconds_per_frame: between frames of tokens, as far as known.

    Raises UnsupportedModelError where layers do not all hold one key and value for every token, or where
    positions do not go on frame by frame.
    """

    def __init__(self, family: VideoFamily, seconds_per_frame: float = 1.0) -> None:
        self.family = family
        self._decoder = family.model.get_decoder()
        self.rotation = Rotation(self._decoder.rotary_emb, _WHAT)
        self._head = family.model.get_output_embeddings()
        self._attention = _attention_layers(family)
        self._seconds_per_frame = seconds_per_frame
        self._layouts: dict[tuple[int, int], StreamLayout] = {}

    def shape(self, grid: VideoGrid) -> CacheShape:
        """Keys and values of the model; its axes of positions are those of prompts."""
        config, first = self.family.text_config, self._attention[0]
        weight = first.k_proj.weight
        heads = int(config.num_attention_heads)
        return CacheShape(
            layers=len(self._attention),
            query_heads=heads,
            kv_heads=int(config.num_key_value_heads),
            head_dim=int(first.head_dim),
            axes=len(self.layout(grid).head().span),
            dtype=weight.dtype if weight.dtype.is_floating_point else self.family.model.dtype,
            device=weight.device,
        )

    def layout(self, grid: VideoGrid) -> StreamLayout:
        """How frames of ``grid`` are written; its number of frames does not matter."""
        size = grid.rows, grid.cols
        if size not in self._layouts:
            if len(self._layouts) == _MOST_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            self._layouts[size] = StreamLayout(self.family, grid, self._seconds_per_frame)
        return self._layouts[size]

    def tensors(self) -> Iterator[torch.Tensor]:
        """What is remembered of layouts."""
        for layout in self._layouts.values():
            yield from layout.tensors()

    def head(self, grid: VideoGrid) -> Chunk:
        """What stands before the first frame."""
        return self._text(self.layout(grid).head())

    def frame(
        self,
        grid: VideoGrid,
        pts_seconds: float,
        features: torch.Tensor,
        cells: torch.Tensor,
        carried: torch.Tensor | None = None,
        *,
        first: bool = False,
    ) -> Chunk:
        """A frame of which some tokens are left, with all the text around it.

        Args:
            features: (kept, width).
            cells: (kept,) row * cols + col, ascending; several rows may stand in one cell.
            carried: (kept, width * layers) for models that add rows after their first layers.
            first: of the stream.
        """
        written = self.layout(grid).frame(pts_seconds, first=first)
        visual = written.visual.nonzero()[:, 0]
        text = (~written.visual).nonzero()[:, 0]
        chosen = visual[cells.to(visual.device).long()]
        columns, sources = torch.sort(torch.cat([text, chosen]), stable=True)
        from_frame = sources >= len(text)
        embeds = self._embedded(written)[columns]
        order = sources[from_frame] - len(text)
        rows = features.to(embeds)[order.to(features.device)]
        embeds[from_frame] = rows
        numbers = torch.full((len(columns),), -1, dtype=torch.int32, device=embeds.device)
        numbers[from_frame] = cells.to(numbers)[order]
        deepstack: tuple[torch.Tensor, ...] = ()
        if carried is not None:
            deepstack = torch.split(carried.to(embeds)[order], embeds.shape[-1], -1)
        offsets = written.offsets[:, columns]
        return Chunk(embeds[None], written.ids[columns], offsets, written.span, numbers, deepstack)

    def of_block(self, grid: VideoGrid, block: FeatureBlock) -> Chunk:
        """The frame that ``block`` remembers, with the time in the middle of what it stands for."""
        seconds = (block.start_seconds + block.stop_seconds) / 2
        return self.frame(grid, seconds, block.features, block.cells, block.carried, first=block.number == 0)

    def tail(self, grid: VideoGrid, question: str) -> Chunk:
        """What stands behind the last frame, with ``question``, up to where the answer begins."""
        return self._text(self.layout(grid).tail(question))

    def opening(self, grid: VideoGrid) -> Chunk:
        """The text that opens an answer, whatever was asked."""
        return self._text(self.layout(grid).opening())

    def text(self, ids: Sequence[int], axes: int) -> Chunk:
        """Text alone, one position for each token on every axis."""
        written = torch.tensor(list(ids), device=self.family.device)
        offsets = torch.arange(len(ids), device=written.device).expand(axes, -1)
        visual = torch.zeros_like(written, dtype=torch.bool)
        return self._text(Written(written, offsets, (len(ids),) * axes, visual))

    def tail_place(self, grid: VideoGrid, end: Sequence[int]) -> tuple[int, ...]:
        """Where the text behind a last frame begins that ends before ``end`` (axes,)."""
        return self.layout(grid).tail_place(end)

    @torch.no_grad()
    def read(
        self,
        chunk: Chunk,
        begin: Sequence[int],
        cache: WorkingCache,
        *,
        queries: bool = False,
    ) -> Reading:
        """Let the model read ``chunk`` after what ``cache`` holds, which grows by it.

        Args:
            begin: (axes,) where the chunk begins.
            queries: whether to give the queries of its tokens.
        """
        first, tokens = cache.length, len(chunk)
        places = chunk.offsets + chunk.offsets.new_tensor(list(begin))[:, None]
        ids = places[0][None] if len(places) == 1 else places[:, None]
        extra: dict[str, Any] = {}
        if chunk.deepstack:
            extra["visual_pos_masks"] = (chunk.cells >= 0)[None]
            extra["deepstack_visual_embeds"] = list(chunk.deepstack)
        mask = torch.ones(1, first + tokens, dtype=torch.int64, device=places.device)
        with self._listening(queries) as heard:
            out = self._decoder(
                inputs_embeds=chunk.embeds,
                attention_mask=mask,
                position_ids=ids,
                past_key_values=cache,
                use_cache=True,
                **extra,
            )
        logits = self._head(out.last_hidden_state[:, -1])[0].float()
        return Reading(logits, torch.stack(heard) if queries else None, first, places)

    def entries(self, reading: Reading, cache: WorkingCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys before rotation, and values, (layers, kv_heads, tokens, head_dim) of what was just read."""
        keys, values = cache.entries(reading.first)
        return self.rotation.turned(keys, reading.places[:, None, None], back=True), values

    def block(
        self,
        chunk: Chunk,
        reading: Reading,
        cache: WorkingCache,
        *,
        number: int,
        seconds: tuple[float, float],
        begin: tuple[int, ...],
        novelty: float = 0.0,
    ) -> Block:
        """What was just read, to be remembered.

        Args:
            begin: (axes,) where the frame stands in the stream, which need not be where it was read.
        """
        keys, values = self.entries(reading, cache)
        offsets = chunk.offsets.to(torch.int32).clone(memory_format=torch.contiguous_format)
        return Block(number, *seconds, keys, values, offsets, begin, chunk.span, chunk.cells.clone(), novelty)

    @contextmanager
    def _listening(self, on: bool) -> Iterator[list[torch.Tensor]]:
        """The queries (query_heads, tokens, head_dim) of every layer, in order."""
        heard: list[torch.Tensor] = []

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            heard.append(heads_of(module, "q", states)[0].transpose(0, 1).float())

        with ExitStack() as hooks:
            for attention in self._attention if on else ():
                hooks.callback(attention.register_forward_pre_hook(before, with_kwargs=True).remove)
            yield heard

    def _text(self, written: Written) -> Chunk:
        numbers = torch.full_like(written.ids, -1, dtype=torch.int32)
        return Chunk(self._embedded(written)[None], written.ids, written.offsets, written.span, numbers)

    @torch.no_grad()
    def _embedded(self, written: Written) -> torch.Tensor:
        embedded: torch.Tensor = self.family.model.get_input_embeddings()(written.ids)
        if written.rows is None:
            return embedded
        there = written.rows.abs().sum(-1, keepdim=True) > 0
        return torch.where(there, written.rows.to(embedded), embedded)


def _attention_layers(family: VideoFamily) -> list[Any]:
    """The attention of every layer; UnsupportedModelError unless each holds all tokens in the same form."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    decoder = family.model.get_decoder()
    kinds = DynamicCache(config=family.model.config).layers
    found: list[Any] = [getattr(layer, "self_attn", None) for layer in decoder.layers]
    plain = all(type(kind) is DynamicLayer for kind in kinds) and all(
        hasattr(attention, "k_proj") and hasattr(attention, "head_dim") for attention in found
    )
    if not plain or len(kinds) not in (0, len(found)):
        raise UnsupportedModelError(
            f"{family.model_type} models have layers that do not hold a key and value of every token, so "
            f"{_WHAT} cannot forget and bring back frames; ask about finished videos with ask()"
        )
    if len({int(attention.head_dim) for attention in found}) > 1:
        raise UnsupportedModelError(f"{_WHAT} needs heads of equal size in all layers of {family.model_type}")
    return found
