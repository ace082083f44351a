"""A key-value cache for stock transformers models that holds fewer entries than it has seen.

    cache = KeptCache.of(model, StreamingLLM(keep_tokens=1024))
    with cache.watch(model):
        model.generate(**inputs, past_key_values=cache)

It reports the tokens SEEN as its length and the entries HELD through the sizes of masks, so that generation,
further turns, prompts in chunks and beams go on as with the stock cache, at the positions they would have
had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from streamprune.cache.watch import Looked, watch
from streamprune.errors import InvalidTypeError, InvalidValueError, UnsupportedModelError
from streamprune.kv.base import Policy
from streamprune.kv.view import NOT_LABELLED, LayerView


@dataclass(frozen=True)
class LayerReport:
    """What one layer holds.

    Attributes:
        layer: its number, from 0.
        seen: tokens so far.
        held: entries of each head.
        bytes: storage of its keys, values and all that is kept about entries.
    """

    layer: int
    seen: int
    held: int
    bytes: int


class KeptLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's entries; ``KeptCache`` makes them.

    Attributes:
        seen: tokens so far, dropped ones and padding included.
        entries: (rows, heads, held) tensors that travel with the keys through every operation: "tokens", the
            number of each entry's token in its row (-1 = padding); "segments" when tokens were labelled; and
            the policy's own state.
    """

    def __init__(self, owner: KeptCache, number: int) -> None:
        super().__init__()
        self.keys: torch.Tensor
        self.values: torch.Tensor
        self._owner = owner
        self._number = number
        self._forget()

    def _forget(self) -> None:
        self.seen = 0
        self.entries: dict[str, torch.Tensor] = {}
        self.has_padding = False
        self.looked: Looked | None = None
        self._prompt = 0
        self._since_padding = 0
        self._counts: torch.Tensor | None = None

    @property
    def held(self) -> int:
        """Entries of each head."""
        return int(self.keys.shape[-2]) if self.is_initialized and self.keys.numel() else 0

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Everything that is stored per entry."""
        return [self.keys, self.values, *self.entries.values()] if self.held else []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the entries of a call and return all of them for its attention; store what the policy keeps."""
        policy, looked, self.looked = self._owner.policy, self.looked, None
        new = int(key_states.shape[-2])
        keys, values = super().update(key_states, value_states)
        if policy.keeps_all:
            self.seen += new
            return keys, values
        self._extend(key_states, looked)
        self.seen += new
        if new > 1 or self.seen == new:
            self._prompt = self.seen
        if policy.query_rows(new) and looked is None:
            raise InvalidValueError(
                f"{type(policy).__name__} reads the model's queries: call the model inside "
                "`with cache.watch(model):`"
            )
        view = self._view(new, looked)
        self.entries.update(policy.observe(view))
        view = self._view(new, looked)
        chosen = policy.choose(view, self._entry_bytes())
        if chosen is not None:
            self._keep(chosen)
        return keys, values

    def _extend(self, key_states: torch.Tensor, looked: Looked | None) -> None:
        """Number the new tokens and carry on what is stored per entry."""
        rows, heads, new, _ = key_states.shape
        visible = None if looked is None else looked.visible
        if visible is None:
            self._since_padding += new
        else:
            self.has_padding, self._since_padding = True, 0
        if self._counts is None:
            self._counts = torch.zeros(rows, 1, dtype=torch.int32, device=key_states.device)
        if visible is None:
            numbers = self._counts + torch.arange(new, device=key_states.device, dtype=torch.int32)
            self._counts = self._counts + new
        else:
            steps = visible.to(key_states.device).expand(rows, new).cumsum(-1, dtype=torch.int32)
            numbers = torch.where(visible, self._counts + steps - 1, -1)
            self._counts = self._counts + steps[:, -1:]
        fresh = {"tokens": numbers[:, None].expand(rows, heads, new)}
        segments = self._owner.segments_from(self.seen, new)
        if segments is not None:
            segments = segments.to(key_states.device)
            fresh["segments"] = segments[:, None].expand(rows, heads, new)
        for name, value in self.entries.items():
            fresh.setdefault(name, value.new_zeros(rows, heads, new))
        self.entries = {
            name: torch.cat([self.entries[name], value], -1) if name in self.entries else value.contiguous()
            for name, value in fresh.items()
        }

    def _view(self, new: int, looked: Looked | None) -> LayerView:
        state = {name: value for name, value in self.entries.items() if name not in ("tokens", "segments")}
        return LayerView(
            keys=self.keys,
            values=self.values,
            tokens=self.entries["tokens"],
            new=new,
            seen=self.seen,
            prompt=self._prompt,
            layer=self._number,
            depth=self._owner.depth,
            scaling=None if looked is None else looked.scaling,
            queries=None if looked is None else looked.queries,
            segments=self.entries.get("segments"),
            state=state,
        )

    def _entry_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors) // self.held

    def _keep(self, chosen: torch.Tensor) -> None:
        """Gather the chosen entries into storage of their own, so that the old one is freed."""
        wide = chosen[..., None].expand(*chosen.shape, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide)
        self.entries = {name: value.gather(2, chosen) for name, value in self.entries.items()}

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries held and new ones; the offset puts a new entry under its own query."""
        return self.held + query_length, self.seen - self.held

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last ``-tokens_to_remove`` tokens; what was dropped because of them stays dropped."""
        if tokens_to_remove > 0:
            raise InvalidValueError(
                f"tokens_to_remove must be 0 or less, minus the tokens to take back, got {tokens_to_remove}"
            )
        removed = min(-tokens_to_remove, self.seen)
        if removed == 0:
            return
        self.seen -= removed
        if not self.entries:
            self.keys, self.values = (x[..., :-removed, :].clone() for x in (self.keys, self.values))
            return
        if self.has_padding and removed > self._since_padding:
            raise InvalidValueError("a batch cannot be cropped back into a part that was padded")
        assert self._counts is not None  # entries have been numbered
        self._counts = self._counts - removed
        self._since_padding -= removed
        stay = self.entries["tokens"] < self._counts[:, None]
        kept = stay.sum(-1)
        if int(kept.min()) != int(kept.max()):
            raise InvalidValueError(
                f"the last {removed} tokens cannot be taken back: some heads have dropped some of them "
                "already; protect them with protect_last"
            )
        self._prompt = min(self._prompt, self.seen)
        self._keep(stay.nonzero()[:, -1].reshape(*kept.shape, -1))

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._forget()

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Give every row the entries of row ``beam_idx``."""
        self._rows(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._rows(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows."""
        self._rows(lambda tensor: tensor[indices.to(tensor.device)])

    def _rows(self, change: Any) -> None:
        if self.held:
            self.keys, self.values = change(self.keys), change(self.values)
            self.entries = {name: change(value) for name, value in self.entries.items()}
            self._counts = None if self._counts is None else change(self._counts)


class KeptCache(Cache):  # type: ignore[misc]
    """A stock cache whose full-attention layers are reduced by a policy; other layers stay as they are.

    Padded batches, layers of different lengths, and policies that read queries need ``with
    cache.watch(model):`` around every call of the model.

    Args:
        config: the model's configuration.
        policy: which entries stay.
        segments: (rows or 1, tokens) int, for the tokens to come: the frame of a visual token, or
            PROMPT_TEXT; tokens beyond them are NOT_LABELLED.

    Raises UnsupportedModelError when no layer of the model can be reduced.
    """

    def __init__(self, config: Any, policy: Policy, *, segments: torch.Tensor | None = None) -> None:
        if not isinstance(policy, Policy):
            raise InvalidTypeError(f"policy must be a streamprune.kv.base.Policy, got {policy!r}")
        self.policy = policy
        self.segments = segments
        layers: list[Any] = list(DynamicCache(config=config).layers)
        reduced = [place for place, layer in enumerate(layers) if type(layer) is DynamicLayer]
        if not reduced:
            raise UnsupportedModelError(
                "no layer of this model attends to all earlier tokens, so there is nothing to reduce"
            )
        self.depth = len(reduced)
        for number, place in enumerate(reduced):
            layers[place] = KeptLayer(self, number)
        super().__init__(layers=layers)

    @classmethod
    def of(cls, model: Any, policy: Policy, *, segments: torch.Tensor | None = None) -> KeptCache:
        """A cache for ``model``."""
        return cls(model.config, policy, segments=segments)

    def watch(self, model: Any) -> AbstractContextManager[None]:
        """While the block lasts, tell this cache about every call of ``model`` that is given it."""
        return watch(model, self)

    def segments_from(self, first: int, tokens: int) -> torch.Tensor | None:
        """(rows or 1, tokens) labels of the tokens from number ``first`` on; None when none are labelled."""
        if self.segments is None:
            return None
        known = self.segments[:, first : first + tokens].to(torch.int32)
        rest = known.new_full((len(known), tokens - known.shape[1]), NOT_LABELLED)
        return torch.cat([known, rest], -1)

    def kept_layers(self) -> Iterator[tuple[int, KeptLayer]]:
        """(place, layer) of the layers that are reduced."""
        for place, layer in enumerate(self.layers):
            if isinstance(layer, KeptLayer):
                yield place, layer

    def report(self) -> list[LayerReport]:
        """What each of the reduced layers has seen, holds, and takes."""
        return [
            LayerReport(place, layer.seen, layer.held, sum(_storage_bytes(x) for x in layer.tensors))
            for place, layer in self.kept_layers()
        ]


def _storage_bytes(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
