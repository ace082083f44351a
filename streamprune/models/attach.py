"""Lets an in-LLM method act inside a stock language model, and takes it out again without a trace.

Hooks sit on the model (to see which tokens are visual), on its decoder (to see the padding), on the layers
from the first cut on, and on the layer below each cut, which is only read. Layers above a cut hold fewer
cache entries; what else has to be known about a cache is kept beside it and forgotten with it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.in_llm.base import InLLMMethod
from streamprune.models.attention_rows import check_projections
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.cache_memory import CacheMemory
from streamprune.models.deepstack import Deepstack
from streamprune.models.layer_hooks import LayerCall
from streamprune.models.prompt_rows import VisualRows
from streamprune.tokens import Reduction

# from the (batch, rows) token ids of a call: the visual tokens of each prompt, None for a prompt without any
Locate = Callable[[torch.Tensor], Sequence[VisualRows | None]]

_IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_attached: weakref.WeakSet[Any] = weakref.WeakSet()
_attached_lock = threading.Lock()


class LayerTokens:
    """How many rows each layer took of the last prompt that brought visual tokens."""

    def __init__(self, layers: int = 0) -> None:
        self._layers = layers
        self._above: dict[int, int] = {}

    def note(self, number: int, rows: int) -> None:
        """Layer ``number`` took so many ``rows``."""
        self._above[number] = rows

    def tokens(self, prompt_tokens: int) -> tuple[int, ...] | None:
        """One number a layer, for a prompt of ``prompt_tokens``; None when all went through all layers."""
        if not self._above:
            return None
        return tuple(self._above.get(number, prompt_tokens) for number in range(self._layers))


@contextmanager
def attach(model: Any, method: InLLMMethod, locate: Locate) -> Iterator[LayerTokens]:
    """Let ``method`` drop or merge visual tokens in every call of ``model`` inside the block.

    Yields what the last prompt with visual tokens took.

    Threads may call the model at the same time, each with its own cache. Caches filled inside hold fewer
    entries in the upper layers: go on with them inside.

    Args:
        model: a stock transformers model, ``get_decoder()`` of which is its language model.
        locate: finds the visual tokens of a call.

    Raises:
        UnsupportedModelError: the language model has layers above a cut that cannot hold fewer tokens.
        InvalidValueError: a cut beyond the model's depth; the model is in such a block already.
    """
    with alone(model.get_decoder()), attach_alone(model, method, locate) as counted:
        yield counted


@contextmanager
def attach_alone(model: Any, method: InLLMMethod, locate: Locate) -> Iterator[LayerTokens]:
    """:func:`attach` for whoever holds :func:`alone` already."""
    decoder = model.get_decoder()
    cuts = method.checked_cuts(len(decoder.layers))
    check_decoder(decoder, cuts, type(model).__name__)
    counted = LayerTokens(len(decoder.layers))
    with ExitStack() as hooks:
        if cuts:
            for handle in _Attachment(method, decoder, cuts, locate, counted).install(model):
                hooks.callback(handle.remove)
        yield counted


@contextmanager
def attach_to_prompt(
    family: VideoFamily, method: InLLMMethod | None, prompt: Prompt, reduction: Reduction
) -> Iterator[LayerTokens]:
    """:func:`attach` for ``prompt`` alone, and for this thread alone; None as ``method`` changes nothing.

    Args:
        reduction: what the prompt was made of.
    """
    if method is None:
        yield LayerTokens()
        return
    index = reduction.index.clamp(min=0)
    rows = VisualRows(prompt.kept_columns, index.to(prompt.kept_columns.device), reduction.grid)

    def locate(ids: torch.Tensor) -> list[VisualRows | None]:
        return [rows if ids.shape[1] == len(prompt) else None] * len(ids)

    with family.lock, attach(family.model, method, locate) as counted:
        yield counted


def check_inside(family: VideoFamily, method: InLLMMethod | None) -> None:
    """Raise InvalidValueError or UnsupportedModelError unless ``method`` can act in the family's model."""
    if method is not None:
        decoder = family.model.get_decoder()
        check_decoder(decoder, method.checked_cuts(len(decoder.layers)), family.checkpoint.name)


def check_decoder(decoder: Any, cuts: Sequence[int], name: str) -> None:
    """Raise UnsupportedModelError unless tokens can be dropped before the layers ``cuts``."""
    if not cuts:
        return
    config, depth = decoder.config, len(decoder.layers)
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * depth
    for number in range(cuts[0], depth):
        if kinds[number] != "full_attention":
            raise UnsupportedModelError(
                f"{name}: layer {number} is of the kind {kinds[number]!r}, and tokens can only be dropped "
                "below layers of full attention; choose layers above it, or drop tokens in the pre_llm stage"
            )
    if getattr(config, "num_kv_shared_layers", 0):
        raise UnsupportedModelError(
            f"{name}: its last {config.num_kv_shared_layers} layers share the keys of others, so tokens "
            "cannot be dropped below them; drop tokens in the pre_llm stage"
        )
    if config._attn_implementation not in _IMPLEMENTATIONS:
        raise UnsupportedModelError(
            f"{name}: tokens cannot be dropped inside the language model with attn_implementation="
            f"{config._attn_implementation!r}; load it with one of {', '.join(_IMPLEMENTATIONS)}"
        )
    for number in {number for cut in cuts for number in (cut - 1, cut) if number >= 0}:
        check_projections(decoder.layers[number], name)


@contextmanager
def alone(decoder: Any) -> Iterator[None]:
    """Refuse, with InvalidValueError, that a second block drops tokens of the same language model."""
    with _attached_lock:
        if decoder in _attached:
            raise InvalidValueError(
                "tokens are already dropped inside this model; leave that `with` block first, or put "
                "everything into one recipe"
            )
        _attached.add(decoder)
    try:
        yield
    finally:
        with _attached_lock:
            _attached.discard(decoder)


class _Attachment:
    """The hooks of one block, and what they keep between calls."""

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
        self._memories: weakref.WeakKeyDictionary[Any, CacheMemory] = weakref.WeakKeyDictionary()

    def install(self, model: Any) -> Iterator[Any]:
        """Put the hooks on; yields their handles one by one."""
        yield model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        yield self._decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        read = {cut - 1 for cut in self._cuts}
        for number, layer in enumerate(self._decoder.layers):
            if number in read or number >= self._cuts[0]:
                yield layer.register_forward_pre_hook(self._layer_hook(number), with_kwargs=True)

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

    def _before_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        visual = getattr(self._now, "visual", ())
        self._now.visual = ()  # belongs to this call alone
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
            if self._now.call.brings_tokens:
                self._counted.note(number, states.shape[1])
            if args:
                return (states, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": states}

        return before_layer

    def _memory(self, cache: Any, number: int, rows: int) -> CacheMemory | None:
        """What is known about ``cache``, which layer ``number`` is about to use; None where it is read."""
        if cache is None or number < self._cuts[0]:
            return None
        memory = self._memories.get(cache)
        if memory is None:
            memory = self._memories[cache] = CacheMemory.of(cache, self._cuts, rows)
        return memory
