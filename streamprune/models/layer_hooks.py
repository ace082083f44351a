"""One call of a language model whose upper layers get fewer rows than the lower ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from streamprune.errors import InvalidTypeError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.models.attention_rows import NOTHING_BELOW, DecoderProjections
from streamprune.models.cache_memory import CacheMemory, entries_held
from streamprune.models.deepstack import Deepstack
from streamprune.models.layer_masks import layer_mask
from streamprune.models.prompt_rows import Batch, MergedRows, PromptRows, VisualRows, apply_decisions
from streamprune.models.validity import Validity
from streamprune.models.watched_parts import WatchedParts


class LayerCall:
    """One call, from the first layer to the last; the hooks of the layers ask it what to pass on.

    Args:
        method: decides before the layers ``cuts``.
        visual: the visual tokens that each prompt brings.
        padding: (batch, entries held and new) the mask the language model was called with, None = all seen.
        implementation: of attention.
        embeds: (batch, rows, width) what enters the first layer.
        deepstack: what visual rows are still given above the first cut.

    Attributes:
        batches: by layer, the rows that went into it; None = all.
        merged: by layer, what a decision before it merged of the first prompt.
        validity: which keys and rows are padding.
    """

    def __init__(
        self,
        method: InLLMMethod,
        cuts: tuple[int, ...],
        depth: int,
        visual: Sequence[VisualRows | None],
        padding: Any,
        implementation: str,
        embeds: Any = None,
        deepstack: Deepstack | None = None,
    ) -> None:
        self._method = method
        self._cuts = cuts
        self._depth = depth
        self._visual = visual
        self.validity = Validity(padding)
        self._implementation = implementation
        self._embeds = embeds
        self._deepstack = deepstack
        self._below: tuple[Any, torch.Tensor, Any] | None = None
        self._batch: Batch | None = None
        self._prompts: tuple[PromptRows, ...] | None = None
        self._tables: dict[Any, Any] = {}
        self._masks: dict[Any, torch.Tensor | None] = {}
        self._watched = WatchedParts(method)
        self._heads: dict[int, torch.Tensor] | None = None
        self.batches: dict[int, Batch | None] = {}
        self.merged: dict[int, MergedRows] = {}

    def enter(
        self, number: int, layer: Any, states: torch.Tensor, given: dict[str, Any], memory: CacheMemory | None
    ) -> tuple[torch.Tensor, dict[str, Any]] | None:
        """What ``layer`` gets in place of ``states`` and ``given``; None = exactly those.

        Args:
            memory: of the cache in use, None without one.
        """
        if self._batch is None:
            self.validity.length = states.shape[1]
        changed = None
        if number >= self._cuts[0]:
            if self._deepstack is not None:
                states = self._deepstack.add(
                    number, states, None if self._batch is None else self._batch.index
                )
                changed = states, given
            if self._heads is None:
                self._heads = {} if memory is None else memory.heads
            if number in self._cuts and self.brings_tokens:
                states = self._decide(number, layer, states, given)
        cut = self._cut(number)
        if self._batch is not None or (memory is not None and cut in memory.shorter):
            given = self._rewritten(number, cut, states, given, memory)
            changed = states, given
        self.batches[number] = self._batch
        if number + 1 in self._cuts and self.brings_tokens:
            self._below = layer, states, given["position_embeddings"]
        return changed

    def _cut(self, number: int) -> int:
        """The last cut that layer ``number`` is above."""
        return sum(number >= first for first in self._cuts) - 1

    def heads(self, number: int) -> torch.Tensor | None:
        """(batch, key heads) bool: which count in layer ``number``; None = all."""
        return None if self._heads is None else self._heads.get(self._cut(number))

    @property
    def brings_tokens(self) -> bool:
        """Whether any prompt of this call has visual tokens."""
        return any(rows is not None for rows in self._visual)

    def watch(self, number: int, part: str, entered: torch.Tensor, left: torch.Tensor) -> None:
        """Show the method what ``part`` of layer ``number`` made of every prompt it will decide about."""
        if not self.brings_tokens:
            return
        if self._prompts is None:
            self.validity.length = entered.shape[1]
            self._prompts = self._first_prompts(entered)
        asked = [None if self._is_settled(prompt) else prompt for prompt in self._prompts]
        self._watched.note(number, part, entered, left, asked)

    def _is_settled(self, prompt: PromptRows) -> bool:
        """Whether there is nothing to decide about ``prompt``."""
        whole = self._method.keeps_everything
        return prompt.done or len(prompt.visual) == 0 or whole(prompt.visual_at_first)

    def _decide(self, number: int, layer: Any, states: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
        """Ask the method about every prompt; the states that go on."""
        if self._prompts is None:
            self._prompts = self._first_prompts(states)
        below = self._below  # the hook of the layer below has run
        here = layer, states, self._gathered(given["position_embeddings"], states)
        decisions = [
            self._decision(number, prompt, row, below, here) for row, prompt in enumerate(self._prompts)
        ]
        self._note_heads(self._cuts.index(number), decisions)
        if all(
            _keeps_all(decision, prompt) for decision, prompt in zip(decisions, self._prompts, strict=True)
        ):
            # nothing is touched, not even by a copy
            self._prompts = tuple(
                prompt if decision is None else replace(prompt, carried=decision.carried, done=decision.done)
                for decision, prompt in zip(decisions, self._prompts, strict=True)
            )
            return states
        merged = MergedRows.of(self._prompts[0], decisions[0])
        if merged is not None:
            self.merged[number] = merged
        self._batch = apply_decisions(states, self._prompts, decisions, pad_left=self.validity.pads_left())
        self._prompts = self._batch.prompts
        self._tables.clear()
        cache = given.get("past_key_values")
        if number == 0 and cache is not None:
            from streamprune.models.seen_layer import note_missing

            note_missing(cache, self.validity.length - self._batch.index.shape[1])
        return self._batch.states

    def _note_heads(self, cut: int, decisions: Sequence[Decision | None]) -> None:
        """Of decisions at ``cut``: heads that no longer count there and above."""
        named = [None if decision is None else decision.heads for decision in decisions]
        some = next((heads for heads in named if heads is not None), None)
        if some is None or self._heads is None:
            return
        everything = torch.ones_like(some)
        new = torch.stack([everything if heads is None else heads for heads in named])
        for above in range(cut, len(self._cuts)):
            before = self._heads.get(above)
            self._heads[above] = new if before is None else new & before.to(new.device)

    def _first_prompts(self, states: torch.Tensor) -> tuple[PromptRows, ...]:
        new = self.validity.of_rows()
        prompts = []
        for row, visual in enumerate(self._visual):
            valid = None if new is None else new[row].to(states.device)
            found = None
            if visual is not None:
                places = None if visual.places is None else visual.places.to(states.device)
                found = VisualRows(visual.rows.to(states.device), places, visual.grid)
            prompts.append(PromptRows.begin(self.validity.length, valid, found))
        return tuple(prompts)

    def _decision(
        self,
        number: int,
        prompt: PromptRows,
        row: int,
        below: tuple[Any, torch.Tensor, Any] | None,
        here: tuple[Any, torch.Tensor, Any],
    ) -> Decision | None:
        """What the method decides about one prompt, None when all of it stays."""
        if self._is_settled(prompt):
            return None
        states = prompt.states(here[1][row])
        view = PromptView(
            layer=number,
            cut=self._cuts.index(number),
            depth=self._depth,
            states=states,
            embeds=self._embeds[row].to(states.device)[prompt.rows],
            visual=prompt.visual,
            places=prompt.places,
            grid=prompt.grid,
            visual_at_first=prompt.visual_at_first,
            before=NOTHING_BELOW if below is None else _projections(below, row, prompt, states.device),
            at=_projections(here, row, prompt, states.device),
            carried=prompt.carried,
            waiting=prompt.waiting,
            watched=self._watched.of(row, prompt),
            prompt=row,
        )
        with torch.no_grad():
            decision = self._method.decide(view)
        if not isinstance(decision, Decision):
            raise InvalidTypeError(
                f"{type(self._method).__name__}.decide must return a Decision, got {type(decision).__name__}"
            )
        return decision

    def _rewritten(
        self, number: int, cut: int, states: torch.Tensor, given: dict[str, Any], memory: CacheMemory | None
    ) -> dict[str, Any]:
        """The layer's arguments for the rows and cache entries it really has."""
        cache = given.get("past_key_values")
        held = 0 if cache is None else entries_held(cache, number, states.shape[1])
        valid = self.validity.of_keys(cut, held, states, memory, self._batch)
        key = cut, held, states.device, states.dtype
        if key not in self._masks:
            self._masks[key] = layer_mask(self._implementation, states, held, valid)
        changed = {**given, "attention_mask": self._masks[key]}
        if self._batch is not None:
            changed["position_embeddings"] = self._gathered(given["position_embeddings"], states)
        if given.get("position_ids") is not None:
            if "flash" in self._implementation:
                # gaps in the positions would read as the start of another packed sequence
                changed["position_ids"] = None
            elif self._batch is not None:
                changed["position_ids"] = take_rows(given["position_ids"][..., None], self._batch.index)[
                    ..., 0
                ]
        return changed

    def _gathered(self, tables: Any, states: torch.Tensor) -> Any:
        """Cosines and sines of the rows that are left, as the layers get them."""
        if self._batch is None:
            return tables
        key = id(tables[0]), states.device
        if key not in self._tables:
            index = self._batch.index.to(tables[0].device)
            self._tables[key] = tables, tuple(take_rows(table, index) for table in tables)
        return self._tables[key][1]


def take_rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(..., batch, left, width) the rows ``index`` (batch, left) of (..., batch or 1, rows, width)."""
    index = index.to(table.device)
    if table.shape[-3] == 1:
        return table[..., 0, :, :][..., index, :]
    return table[..., torch.arange(len(index), device=index.device)[:, None], index, :]


def _keeps_all(decision: Decision | None, prompt: PromptRows) -> bool:
    if decision is None:
        return True
    return not decision.back and decision.entries is None and len(decision.kept) == len(prompt.rows)


def _projections(
    source: tuple[Any, torch.Tensor, Any], row: int, prompt: PromptRows, device: torch.device
) -> DecoderProjections:
    """Of the ``row``-th prompt, from a layer, the batch that entered it, and the batch's tables."""
    layer, states, tables = source
    cos, sin = (table[min(row, table.shape[0] - 1)].to(device)[prompt.at] for table in tables)
    return DecoderProjections(layer, prompt.states(states[row].to(device)), (cos, sin), device)
