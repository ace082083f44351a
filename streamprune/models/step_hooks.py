"""The hooks of a method that chooses at every step of decoding what upper layers attend to."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.steps import StepDecision, StepMethod, StepView
from streamprune.models.attachment import Attachment
from streamprune.models.attention_rows import DecoderProjections
from streamprune.models.cache_memory import check_cache, entries_held
from streamprune.models.layer_masks import layer_mask
from streamprune.models.prompt_rows import VisualRows
from streamprune.ops.attention_rows import attention_rows


@dataclass(eq=False)
class _CacheSteps:
    """What is known about a cache: (visual,) entries of each prompt, and what the method handed on."""

    visual: list[torch.Tensor] = field(default_factory=list)
    carried: list[Any] = field(default_factory=list)

    def add(self, found: Sequence[VisualRows | None], held: int) -> None:
        """Visual tokens come behind ``held`` entries."""
        if not self.visual:
            self.visual = [torch.zeros(0, dtype=torch.int64)] * len(found)
            self.carried = [None] * len(found)
        for row, rows in enumerate(found):
            if rows is not None:
                known = self.visual[row].to(rows.rows.device)
                self.visual[row] = torch.cat([known[known < held], rows.rows + held])


@dataclass(eq=False)
class _Step:
    """One call: the visual tokens it brings, its padding, and later the entries that were chosen.

    Attributes:
        chosen: (batch, chosen) int64 entries; None = all.
        valid: (batch, chosen) bool, which of them count; None = all.
    """

    visual: Sequence[VisualRows | None]
    padding: Any
    below: tuple[Any, torch.Tensor, Any] | None = None
    chosen: torch.Tensor | None = None
    valid: torch.Tensor | None = None


class _ChosenOnly:
    """A cache that takes in everything and hands some of its entries out."""

    def __init__(self, cache: Any, chosen: torch.Tensor) -> None:
        self._cache = cache
        self._chosen = chosen

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the chosen entries, the new one among them."""
        keys, values = self._cache.update(keys, values, *args, **kwargs)
        chosen = self._chosen.to(keys.device)
        if len(chosen) == 1:  # whole entries at a time
            return keys.index_select(2, chosen[0]), values.index_select(2, chosen[0])
        index = chosen[:, None, :, None]
        keys = keys.gather(2, index.expand(-1, keys.shape[1], -1, keys.shape[3]))
        values = values.gather(2, index.expand(-1, values.shape[1], -1, values.shape[3]))
        return keys, values

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


class StepAttachment(Attachment):
    """Of a :class:`StepMethod`."""

    _method: StepMethod

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._caches: weakref.WeakKeyDictionary[Any, _CacheSteps] = weakref.WeakKeyDictionary()

    def _before_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._now.step = _Step(self._located(), kwargs.get("attention_mask"))

    def _layer_hook(self, number: int) -> Callable[..., Any]:
        first = self._cuts[0]

        def before_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            step, cache = self._now.step, kwargs.get("past_key_values")
            if number < first:
                step.below = layer, states, kwargs["position_embeddings"]
                return None
            if number == first and cache is not None:
                self._choose(step, cache, states)
            if step.chosen is None:
                return None
            held = step.chosen.shape[1] - 1
            mask = layer_mask(self._decoder.config._attn_implementation, states, held, step.valid)
            chosen = _ChosenOnly(cache, step.chosen)
            return args, {**kwargs, "past_key_values": chosen, "attention_mask": mask}

        return before_layer

    def _choose(self, step: _Step, cache: Any, states: torch.Tensor) -> None:
        """Ask about every prompt of a call that brings one row of text to each."""
        rows = states.shape[1]
        known = self._caches.get(cache)
        if any(found is not None for found in step.visual):
            check_cache(cache)
            self._check_stock(cache)
            if known is None:
                known = self._caches[cache] = _CacheSteps()
            known.add(step.visual, entries_held(cache, self._cuts[0], rows))
            return
        if known is None or rows > 1:
            return
        valid = self._validity(step, states, entries_held(cache, self._cuts[0], rows) + 1)
        assert step.below is not None  # the hook of the layer below has run
        keys = cache.layers[self._cuts[0] - 1].keys
        lists = [
            self._entries(number, known, keys[number], step.below, None if valid is None else valid[number])
            for number in range(len(states))
        ]
        if any(entries is not None for entries in lists):
            step.chosen, step.valid = _together(lists, keys.shape[2], valid, states.device)

    def _entries(
        self,
        number: int,
        known: _CacheSteps,
        keys: torch.Tensor,
        below: tuple[Any, torch.Tensor, Any],
        valid: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """(chosen,) entries that prompt ``number`` attends to in this step, ascending; None = all."""
        visual = known.visual[number].to(keys.device)
        visual = visual[visual < keys.shape[1] - 1]  # the cache may have been cropped
        if len(visual) == 0 or self._method.keeps_everything(len(visual)):
            return None
        layer, states, tables = below
        cos, sin = (table[..., min(number, table.shape[-3] - 1), :, :].to(keys.device) for table in tables)
        row = DecoderProjections(layer, states[number].to(keys.device), (cos, sin), keys.device)
        queries = row.queries(torch.zeros(1, dtype=torch.int64, device=keys.device))
        if valid is None:
            attention = attention_rows(queries, keys, row.scaling)[:, 0]
        else:
            attention = torch.zeros((len(queries), keys.shape[1]), device=keys.device)
            attention[:, valid] = attention_rows(queries, keys[:, valid], row.scaling)[:, 0]
        with torch.no_grad():
            decision = self._method.step(StepView(attention, visual, known.carried[number]))
        if not isinstance(decision, StepDecision):
            raise InvalidTypeError(
                f"{type(self._method).__name__}.step must return a StepDecision, got "
                f"{type(decision).__name__}"
            )
        known.carried[number] = decision.carried
        if decision.chosen is None or len(decision.chosen) == len(visual):
            return None
        stays = torch.ones(keys.shape[1], dtype=torch.bool, device=keys.device)
        stays[visual] = False
        stays[visual[decision.chosen]] = True
        if valid is not None:
            stays &= valid
        return stays.nonzero()[:, 0]

    def _validity(self, step: _Step, states: torch.Tensor, entries: int) -> torch.Tensor | None:
        """(batch, entries) bool: which are not padding; None = all."""
        mask = step.padding
        if mask is None:
            return None
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or mask.shape[1] != entries:
            raise InvalidValueError(
                f"attention_mask must be None or (batch, {entries}), the entries of the cache and the new "
                f"one, got {tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__}"
            )
        valid = mask.bool().to(states.device)
        return None if bool(valid.all()) else valid


def _together(
    lists: Sequence[torch.Tensor | None], entries: int, valid: torch.Tensor | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The entries of every prompt side by side, short ones filled up from the left, and which count."""
    everything = torch.arange(entries, device=device)
    whole = [
        (everything if valid is None else everything[valid[row]]) if one is None else one.to(device)
        for row, one in enumerate(lists)
    ]
    longest = max(len(one) for one in whole)
    chosen = torch.zeros(len(whole), longest, dtype=torch.int64, device=device)
    counts = torch.zeros(len(whole), longest, dtype=torch.bool, device=device)
    for row, one in enumerate(whole):
        chosen[row, longest - len(one) :], counts[row, longest - len(one) :] = one, True
    return chosen, None if bool(counts.all()) else counts
