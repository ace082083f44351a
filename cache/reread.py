"""Reading a prompt a second time, for policies that judge entries by it; nothing of it stays."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.kv.kvzip import KVzip
from streamprune.kv.view import LayerView

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache
    from streamprune.cache.kept_layer import KeptLayer
    from streamprune.cache.watch import Looked


@contextmanager
def reread(decoder: Any, cache: KeptCache, policy: KVzip) -> Iterator[None]:
    """After every prompt that ``decoder`` reads into ``cache``, read its context again and let it decide."""
    reading = _Reading(decoder, cache, policy)
    before = decoder.register_forward_pre_hook(reading.remember, with_kwargs=True)
    after = decoder.register_forward_hook(reading.follow, with_kwargs=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()


class _Reading:
    """The hooks of one block."""

    def __init__(self, decoder: Any, cache: KeptCache, policy: KVzip) -> None:
        self._decoder = decoder
        self._cache = cache
        self._policy = policy
        self._under_way = False
        self._given: dict[str, Any] = {}

    def remember(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """What goes into the decoder, before others change it."""
        if not self._under_way and kwargs.get("past_key_values") is self._cache:
            self._given = {"input_ids": args[0], **kwargs} if args else dict(kwargs)

    def follow(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The second reading, where the cache is too long for its budget."""
        given, self._given = self._given, {}
        layers = [layer for _, layer in self._cache.kept_layers()]
        if self._under_way or not given or not any(layer.over_budget() for layer in layers):
            return
        embeds = given.get("inputs_embeds")
        if embeds is None:
            embeds = decoder.embed_tokens(given["input_ids"])
        context = _context(layers[0], embeds.shape[1], type(self._policy).__name__).to(embeds.device)
        if len(context) == 0:
            return
        with torch.no_grad(), self._others_as_they_are():
            votes = self._read(given, embeds, context, layers)
        for layer, recalled in zip(layers, votes, strict=True):
            layer.decide({"recalled": recalled})

    def _read(
        self, given: dict[str, Any], embeds: torch.Tensor, context: torch.Tensor, layers: list[KeptLayer]
    ) -> list[torch.Tensor]:
        """(rows, heads, held) by layer: votes for the ``context`` of this call, beside earlier ones."""
        votes = [_votes_so_far(layer) for layer in layers]
        count = -(-len(context) // self._policy.part)
        for number in range(count):
            first, last = len(context) * number // count, len(context) * (number + 1) // count
            places = context[max(0, first - self._policy.overlap) : last]
            entries = context[first:last] + layers[0].held - embeds.shape[1]
            with self._instead(layers, votes, entries):
                self._decoder(
                    **self._again(given, embeds, places, layers[0].seen),
                    past_key_values=self._cache,
                    use_cache=True,
                )
        return votes

    @contextmanager
    def _others_as_they_are(self) -> Iterator[None]:
        """Let layers that are not reduced, of a short window or with a running state, forget the block."""
        kept = {place for place, _ in self._cache.kept_layers()}
        others = [layer for place, layer in enumerate(self._cache.layers) if place not in kept]
        before = [copy.deepcopy(vars(layer)) for layer in others]
        try:
            yield
        finally:
            for layer, state in zip(others, before, strict=True):
                vars(layer).clear()
                vars(layer).update(state)

    @contextmanager
    def _instead(
        self, layers: list[KeptLayer], votes: list[torch.Tensor], entries: torch.Tensor
    ) -> Iterator[None]:
        """While the block lasts, layers take what comes to them as read again."""
        self._under_way = True
        with ExitStack() as undo:
            undo.callback(setattr, self, "_under_way", False)
            for layer, found in zip(layers, votes, strict=True):
                layer.instead = _Listening(layer, self._policy, found, entries)
                undo.callback(setattr, layer, "instead", None)
            yield

    def _again(
        self, given: dict[str, Any], embeds: torch.Tensor, places: torch.Tensor, seen: int
    ) -> dict[str, Any]:
        """What the decoder is given for the tokens ``places`` of the call, behind the instruction."""
        words = torch.tensor(self._policy.instruction, dtype=torch.int64, device=embeds.device)
        asked = self._decoder.embed_tokens(words).to(embeds).expand(len(embeds), -1, -1)
        again: dict[str, Any] = {"inputs_embeds": torch.cat([asked, embeds[:, places]], 1)}
        again["position_ids"] = _positions(given.get("position_ids"), places, len(words), seen, embeds)
        marked, added = given.get("visual_pos_masks"), given.get("deepstack_visual_embeds")
        if marked is not None and added is not None:
            chosen = marked[:, places]
            row = (marked.flatten().cumsum(0) - 1).reshape(marked.shape)[:, places][chosen]
            again["visual_pos_masks"] = torch.nn.functional.pad(chosen, (len(words), 0))
            again["deepstack_visual_embeds"] = [rows[row] for rows in added]
        return again


class _Listening:
    """Takes the keys and values of a call that is read again in place of a layer's ``update``."""

    def __init__(self, layer: KeptLayer, policy: KVzip, votes: torch.Tensor, entries: torch.Tensor) -> None:
        self._layer, self._policy, self._votes, self._entries = layer, policy, votes, entries

    def __call__(
        self, keys: torch.Tensor, values: torch.Tensor, looked: Looked
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All entries and the new ones, for the attention of the call."""
        layer, new = self._layer, keys.shape[2]
        keys, values = torch.cat([layer.keys, keys], 2), torch.cat([layer.values, values], 2)
        tokens = layer.entries["tokens"]
        numbers = torch.arange(new, device=tokens.device, dtype=tokens.dtype) + layer.seen
        view = LayerView(
            keys=keys,
            values=values,
            tokens=torch.cat([tokens, numbers.expand(*tokens.shape[:2], new)], -1),
            new=new,
            seen=layer.seen + new,
            prompt=layer.seen,
            scaling=looked.scaling,
            queries=looked.queries,
        )
        self._votes[..., self._entries] = self._policy.recalled(view, self._entries)
        return keys, values


def _votes_so_far(layer: KeptLayer) -> torch.Tensor:
    """(rows, heads, held) float32: votes for entries of earlier prompts, else 0."""
    before = layer.entries.get("recalled")
    if before is not None:
        return before.clone()
    return torch.zeros(layer.entries["tokens"].shape, device=layer.entries["tokens"].device)


def _context(layer: KeptLayer, new: int, policy: str) -> torch.Tensor:
    """(some,) which of the ``new`` tokens of a call are the context: the visual ones, if known."""
    segments = layer.entries.get("segments")
    if segments is None:
        return torch.arange(new)
    visual = segments[:, 0, layer.held - new :] >= 0
    if not bool((visual == visual[:1]).all()):
        raise InvalidValueError(
            f"{policy} reads the prompts of a batch again together, which must have their visual tokens at "
            "the same places; give it one sequence at a time"
        )
    return visual[0].nonzero()[:, 0]


def _positions(
    given: torch.Tensor | None, places: torch.Tensor, words: int, seen: int, embeds: torch.Tensor
) -> torch.Tensor:
    """Positions, as the decoder takes them, of so many ``words`` and the tokens ``places``, behind all.

    The tokens keep the distances they have to one another on every axis.
    """
    if given is None:
        count = words + len(places)
        return torch.arange(seen, seen + count, device=embeds.device)[None]
    # of four rows the first counts tokens, for masks
    axes = given[1:] if given.ndim == 3 and len(given) == 4 else given
    start = axes.amax() + 1
    moved = axes[..., places]
    moved = moved - moved.amin() + start + words
    asked = torch.arange(words, device=given.device) + start
    both = torch.cat([asked.expand(*axes.shape[:-1], -1), moved], -1)
    if len(axes) == len(given):
        return both
    order = torch.arange(seen, seen + both.shape[-1], device=given.device)
    return torch.cat([order.expand_as(both[:1]), both])
