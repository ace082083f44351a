"""The hooks that carry an in-LLM method out.

They sit on the model (to see which tokens are visual), on its decoder (to see the padding), on the layers
from the first cut on, and on the layer below each cut, which is only read. Layers above a cut hold fewer
cache entries; what else has to be known about a cache is kept beside it and forgotten with it.
"""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import InLLMMethod
from streamprune.models.cache_memory import CacheMemory
from streamprune.models.compaction import compact
from streamprune.models.deepstack import Deepstack
from streamprune.models.layer_hooks import LayerCall
from streamprune.models.prompt_rows import MergedRows, VisualRows
from streamprune.models.watched_parts import watch_parts

# from the (batch, rows) token ids of a call: the visual tokens of each prompt, None for a prompt without any
Locate = Callable[[torch.Tensor], Sequence[VisualRows | None]]


class LayerTokens:
    """Which rows each layer took of the last prompt that brought visual tokens.

    Attributes:
        above: by layer that did not get all rows, (batch, rows) int64 which rows of the call it took; what
            fills up a shorter prompt of a batch is 0 or -1.
        merged: by layer before which rows of the first prompt were merged, what became of them.
    """

    def __init__(self, layers: int = 0) -> None:
        self._layers = layers
        self.above: dict[int, torch.Tensor] = {}
        self.merged: dict[int, MergedRows] = {}

    def note(self, number: int, rows: torch.Tensor) -> None:
        """Layer ``number`` took the ``rows`` (batch, rows)."""
        self.above[number] = rows

    def tokens(self, prompt_tokens: int) -> tuple[int, ...] | None:
        """One number a layer, for a prompt of ``prompt_tokens``; None when all went through all layers."""
        if not self.above:
            return None
        return tuple(
            self.above[number].shape[1] if number in self.above else prompt_tokens
            for number in range(self._layers)
        )


class Attachment(ABC):
    """The hooks of one block, and what they keep between calls.

    Args:
        cuts: layers before which ``method`` is asked.
        counted: told how many rows layers take.
    """

    def __init__(
        self,
        method: InLLMMethod,
        decoder: Any,
        cuts: tuple[int, ...],
        locate: Locate,
        counted: LayerTokens,
    ) -> None:
        self._counted = counted
        self._method = method
        self._decoder = decoder
        self._cuts = cuts
        self._locate = locate
        # each thread has a call of its own under way
        self._now = threading.local()

    def install(self, model: Any) -> Iterator[Any]:
        """Put the hooks on; yields their handles one by one."""
        yield model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        yield self._decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        for number, layer in enumerate(self._decoder.layers):
            if self._looks_at(number):
                yield layer.register_forward_pre_hook(self._layer_hook(number), with_kwargs=True)

    def _looks_at(self, number: int) -> bool:
        """Whether layer ``number`` is changed, or read for the one above it."""
        return number >= self._cuts[0] or number + 1 in self._cuts

    @abstractmethod
    def _before_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The hook of the language model."""

    @abstractmethod
    def _layer_hook(self, number: int) -> Callable[..., Any]:
        """The hook of one of its layers."""

    def _before_model(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None:
            raise InvalidValueError(
                "tokens are dropped inside this model, and input_ids must tell visual tokens from text; "
                "inputs_embeds alone do not say"
            )
        visual = self._locate(ids)
        if kwargs.get("labels") is not None and any(rows is not None for rows in visual):
            raise InvalidValueError(
                "labels cannot be given where tokens are dropped inside the model: some have no logit"
            )
        self._now.visual = visual

    def _check_stock(self, cache: Any) -> None:
        """Refuse a cache that drops entries by itself."""
        from streamprune.models.seen_layer import check_stock_layers

        check_stock_layers(cache, type(self._method).__name__)

    def _located(self) -> Sequence[VisualRows | None]:
        """The visual tokens that this call brings, for the language model that is about to run."""
        visual: Sequence[VisualRows | None] = getattr(self._now, "visual", ())
        self._now.visual = ()  # belongs to this call alone
        return visual


class CutAttachment(Attachment):
    """Of a method that lets fewer rows of a prompt go up."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._memories: weakref.WeakKeyDictionary[Any, CacheMemory] = weakref.WeakKeyDictionary()

    def install(self, model: Any) -> Iterator[Any]:
        """See the base class; also on the parts that the method watches."""
        yield from super().install(model)
        parts = self._method.watched(len(self._decoder.layers))
        yield from watch_parts(self._decoder, parts, lambda *seen: self._now.call.watch(*seen))
        if self._method.compact_below:
            yield self._decoder.register_forward_hook(self._after_decoder, with_kwargs=True)
        if self._method.prunes_heads:
            for number in range(self._cuts[0], len(self._decoder.layers)):
                mixer = self._decoder.layers[number].self_attn.o_proj
                yield mixer.register_forward_pre_hook(self._head_hook(number))

    def _looks_at(self, number: int) -> bool:
        """See the base class; all layers where those below the cuts change too."""
        return self._method.compact_below or super()._looks_at(number)

    def _after_decoder(
        self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        cache = kwargs.get("past_key_values") or getattr(output, "past_key_values", None)
        memory = None if cache is None else self._memories.get(cache)
        if memory is not None:
            compact(cache, self._cuts, self._now.call, memory)

    def _before_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        visual = self._located()
        deepstack = Deepstack.take(kwargs, self._cuts[0])
        self._now.call = LayerCall(
            self._method,
            self._cuts,
            len(decoder.layers),
            visual,
            kwargs.get("attention_mask"),
            decoder.config._attn_implementation,
            self._embeds(args, kwargs) if visual else None,
            deepstack,
        )
        return args, kwargs

    def _embeds(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """What enters the first layer."""
        embeds = kwargs.get("inputs_embeds")
        ids = args[0] if args else kwargs.get("input_ids")
        with torch.no_grad():
            found: torch.Tensor = self._decoder.embed_tokens(ids) if embeds is None else embeds
        return found

    def _layer_hook(self, number: int) -> Callable[..., Any]:
        def before_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            memory = self._memory(kwargs.get("past_key_values"), number, states.shape[1])
            changed = self._now.call.enter(number, layer, states, kwargs, memory)
            if changed is None:
                return None
            states, kwargs = changed
            batch = self._now.call.batches[number]
            if batch is not None:
                self._counted.note(number, batch.index)
                self._counted.merged = self._now.call.merged
            if args:
                return (states, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": states}

        return before_layer

    def _head_hook(self, number: int) -> Callable[..., Any]:
        def before_mixing(mixer: Any, args: tuple[Any, ...]) -> Any:
            heads = self._now.call.heads(number)
            if heads is None:
                return None
            outputs = args[0]
            groups = outputs.unflatten(-1, (heads.shape[1], -1))
            return (groups * heads.to(outputs)[:, None, :, None]).flatten(-2), *args[1:]

        return before_mixing

    def _memory(self, cache: Any, number: int, rows: int) -> CacheMemory | None:
        """What is known about ``cache``, which layer ``number`` is about to use; None where it is read."""
        if cache is None or not (self._method.compact_below or number >= self._cuts[0]):
            return None
        memory = self._memories.get(cache)
        if memory is None:
            memory = self._memories[cache] = CacheMemory.of(cache, self._cuts, number, rows)
        return memory
