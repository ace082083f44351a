"""Texts that follow the same beginning without seeing each other, such as the policies of a guideline.

Every text stands at the same positions, so none is favoured by its place, and its keys and values are those
it would have alone. What comes after them sees them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from streamprune.errors import InvalidTypeError, InvalidValueError


def parallel_positions(start: int, sizes: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Positions of texts of ``sizes`` tokens that all start at ``start``, and where later text goes on.

    Returns:
        (tokens,) int64 positions of all texts, one text after the other; the position behind the longest.
    """
    if not sizes or any(size < 1 for size in sizes):
        raise InvalidValueError(f"sizes must be one number from 1 for each text, got {list(sizes)}")
    return torch.cat([torch.arange(start, start + size) for size in sizes]), start + max(sizes)


@torch.no_grad()
def append_in_parallel(model: Any, cache: Any, texts: Sequence[torch.Tensor], start: int) -> int:
    """Add ``texts`` to what ``cache`` holds, each encoded as if it were the only one.

    Inside a block that drops tokens of ``model``, the upper layers see what is left there.

    Args:
        model: a stock transformers model that generates text.
        cache: a DynamicCache filled by ``model`` with one prompt, images or video included.
        texts: token ids, (tokens,) int64 each, at least one of them.
        start: position of the first token of each; for text after a video with positions of its own that is
            one more than the largest so far.

    Returns:
        The position at which later text goes on. Give it, and a mask of ones over all entries, explicitly:
        from the length of the cache alone a model would count every text.

    Raises:
        InvalidTypeError: ``cache`` is of another kind.
        InvalidValueError: it holds nothing, or several prompts; a text is empty or not one-dimensional.
    """
    if any(text.ndim != 1 for text in texts):
        raise InvalidValueError(
            f"texts must be (tokens,) token ids each, got {[tuple(text.shape) for text in texts]}"
        )
    _, behind = parallel_positions(start, [len(text) for text in texts])
    layers = _plain_layers(cache)
    before = [(layer.keys, layer.values) for layer in layers]
    added: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    try:
        for text in texts:
            _run(model, cache, text, start)
            added.append([_behind(layer, len(text)) for layer in layers])
            _put_back(layers, before)
    except BaseException:
        _put_back(layers, before)
        raise
    for number, (layer, (keys, values)) in enumerate(zip(layers, before, strict=True)):
        layer.keys = torch.cat([keys, *(own[number][0] for own in added)], -2)
        layer.values = torch.cat([values, *(own[number][1] for own in added)], -2)
    return behind


def _run(model: Any, cache: Any, text: torch.Tensor, start: int) -> None:
    device = model.get_input_embeddings().weight.device
    ids = text.to(device)[None]
    position = torch.arange(start, start + len(text), device=device)[None]
    mask = torch.ones(1, cache.get_seq_length() + len(text), dtype=torch.int64, device=device)
    model(ids, attention_mask=mask, position_ids=position, past_key_values=cache, logits_to_keep=1)


def _plain_layers(cache: Any) -> list[Any]:
    """The layers of ``cache``, all of the kind that only grows."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", None)
    if layers is None or not all(type(layer) is DynamicLayer for layer in layers):
        kinds = sorted({type(layer).__name__ for layer in layers or ()})
        raise InvalidTypeError(
            "texts can only be added in parallel to a DynamicCache with full attention in every layer, got "
            f"{type(cache).__name__}" + (f" of {', '.join(kinds)}" if kinds else "")
        )
    if not layers or cache.get_seq_length() == 0:
        raise InvalidValueError("cache must hold what stands before the texts; run the model on that first")
    if layers[0].keys.shape[0] != 1:
        raise InvalidValueError(
            f"cache must hold one prompt, got {layers[0].keys.shape[0]}; add the texts to one at a time"
        )
    return list(layers)


def _behind(layer: Any, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.keys[..., -tokens:, :].clone(), layer.values[..., -tokens:, :].clone()


def _put_back(layers: Sequence[Any], held: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for layer, (keys, values) in zip(layers, held, strict=True):
        layer.keys, layer.values = keys, values
