"""Lets an in-LLM method act inside a stock language model, and takes it out again without a trace."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.in_llm.base import InLLMMethod
from streamprune.in_llm.returning import ReturningMethod
from streamprune.in_llm.steps import StepMethod
from streamprune.models.attachment import Attachment, CutAttachment, LayerTokens, Locate
from streamprune.models.attention_rows import check_projections
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.prompt_rows import VisualRows
from streamprune.models.return_hooks import ReturnAttachment
from streamprune.models.step_hooks import StepAttachment
from streamprune.models.watched_parts import check_parts
from streamprune.tokens import Reduction

_IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_attached: weakref.WeakSet[Any] = weakref.WeakSet()
_attached_lock = threading.Lock()


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
    check_parts(decoder, method.watched(len(decoder.layers)), type(model).__name__)
    counted = LayerTokens(len(decoder.layers))
    _check_heads(decoder, method, cuts, type(model).__name__)
    with ExitStack() as hooks:
        if cuts:
            for handle in _attachment(method)(method, decoder, cuts, locate, counted).install(model):
                hooks.callback(handle.remove)
        yield counted


def _check_heads(decoder: Any, method: InLLMMethod, cuts: Sequence[int], name: str) -> None:
    """Raise UnsupportedModelError unless heads can be told apart, where ``method`` names some."""
    if method.prunes_heads and cuts:
        layers = range(max(0, cuts[0] - 1), len(decoder.layers))
        check_parts(decoder, [(n, f"self_attn.{p}") for n in layers for p in ("v_proj", "o_proj")], name)


def _attachment(method: InLLMMethod) -> type[Attachment]:
    if isinstance(method, StepMethod):
        return StepAttachment
    return ReturnAttachment if isinstance(method, ReturningMethod) else CutAttachment


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
        check_parts(decoder, method.watched(len(decoder.layers)), family.checkpoint.name)


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
