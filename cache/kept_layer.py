"""One layer of a key-value cache that holds fewer entries than it has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicLayer

from streamprune.errors import InvalidValueError
from streamprune.kv.base import Replacement
from streamprune.kv.view import LayerView
from streamprune.ops.rotary import turned_further

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache
    from streamprune.cache.watch import Looked

# what is stored per entry and is no state of the policy
_OWN = ("tokens", "segments", "cells", "stored_at")


class KeptLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's entries; ``KeptCache`` makes them.

    Attributes:
        seen: tokens so far, dropped ones and padding included.
        entries: (rows, heads, held) tensors that travel with the keys through every operation: "tokens", the
            number of each entry's token in its row (-1 = padding); "segments" when tokens were labelled;
            "stored_at", the position its key was rotated to, when positions are compact; and the policy's own
            state.
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
        self._moved = False
        self._merged_until: torch.Tensor | None = None
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

    @property
    def bias(self) -> torch.Tensor | None:
        """(rows, heads, held) float32 to add to the logits of attention; None while nothing was merged."""
        return None if self._merged_until is None else self._owner.policy.bias(self._state())

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the entries of a call and return all of them for its attention; store what the policy keeps."""
        policy, looked, self.looked = self._owner.policy, self.looked, None
        new = int(key_states.shape[-2])
        if not policy.keeps_all:
            self._check(new, looked)
        keys, values = super().update(key_states, value_states)
        if policy.keeps_all:
            self.seen += new
            return keys, values
        self._extend(key_states, looked)
        self.seen += new
        if new > 1 or self.seen == new:
            self._prompt = self.seen
        keys = self._in_place(keys, looked)
        self.entries.update(policy.observe(self._view(keys, new, looked)))
        replacement = policy.replace(self._view(keys, new, looked), self._entry_bytes())
        if replacement is not None:
            self._replace(replacement)
        return keys, values

    def _check(self, new: int, looked: Looked | None) -> None:
        """Refuse a call that nobody told this layer about when it has to know more than keys and values."""
        wants = None
        if self._owner.policy.query_rows(new):
            wants = f"{type(self._owner.policy).__name__} reads the model's queries"
        elif self._owner.policy.merges:
            wants = "merged entries are worth more attention than others"
        elif self._owner.compact:
            wants = "compact positions are given to the model's queries too"
        if looked is None and wants:
            raise InvalidValueError(f"{wants}: call the model inside `with cache.watch(model):`")

    def _in_place(self, keys: torch.Tensor, looked: Looked | None) -> torch.Tensor:
        """``keys`` at the positions 0, 1, 2, ... if they are to be moved; each is turned once, as stored."""
        if looked is None or looked.frequencies is None or not self._owner.compact or not self._moved:
            return keys
        places = torch.arange(keys.shape[-2], device=keys.device)
        return turned_further(keys, places - self.entries["stored_at"], looked.frequencies)

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
            visible = visible.to(key_states.device).expand(rows, new)
            steps = visible.cumsum(-1, dtype=torch.int32)
            numbers = torch.where(visible, self._counts + steps - 1, -1)
            self._counts = self._counts + steps[:, -1:]
        fresh = {"tokens": numbers[:, None].expand(rows, heads, new)}
        if self._owner.labels is not None:
            for name, label in self._owner.labels.part(self.seen, new).items():
                fresh[name] = label.to(key_states.device)[:, None].expand(rows, heads, new)
        if self._owner.compact:
            places = torch.arange(self.held - new, self.held, device=key_states.device, dtype=torch.int32)
            fresh["stored_at"] = places.expand(rows, heads, new)
        for name, value in self.entries.items():
            fresh.setdefault(name, value.new_zeros(rows, heads, new))
        self.entries = {
            name: torch.cat([self.entries[name], value], -1) if name in self.entries else value.contiguous()
            for name, value in fresh.items()
        }

    def _view(self, keys: torch.Tensor, new: int, looked: Looked | None) -> LayerView:
        return LayerView(
            keys=keys,
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
            cells=self.entries.get("cells"),
            grid=None if self._owner.labels is None else self._owner.labels.grid,
            frequencies=None if looked is None else looked.frequencies,
            turn=None if looked is None else looked.turn,
            state=self._state(),
            bias=self.bias,
        )

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.entries.items() if name not in _OWN}

    def _entry_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors) // self.held

    def _keep(self, chosen: torch.Tensor) -> None:
        """Gather the chosen entries into storage of their own, so that the old one is freed."""
        self._moved = True
        wide = chosen[..., None].expand(*chosen.shape, self.keys.shape[-1])
        self.keys, self.values = self.keys.gather(2, wide), self.values.gather(2, wide)
        self.entries = {name: value.gather(2, chosen) for name, value in self.entries.items()}

    def _replace(self, replacement: Replacement) -> None:
        """Keep what was chosen, and put in what it has become."""
        self._keep(replacement.chosen)
        if replacement.keys is not None and replacement.values is not None:
            self.keys, self.values = replacement.keys, replacement.values
        self.entries.update(replacement.state)
        newest, until = replacement.newest, self._merged_until
        if newest is not None:
            self._merged_until = newest if until is None else torch.maximum(until, newest)

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
        if not self.entries:
            self.seen -= removed
            self.keys, self.values = (x[..., :-removed, :].clone() for x in (self.keys, self.values))
            return
        if self.has_padding and removed > self._since_padding:
            raise InvalidValueError("a batch cannot be cropped back into a part that was padded")
        assert self._counts is not None  # entries have been numbered
        if self._merged_until is not None and int(self._merged_until) >= int(self._counts.min()) - removed:
            raise InvalidValueError(
                f"the last {removed} tokens cannot be taken back: some of them have been merged into other "
                "entries already; protect them with protect_last"
            )
        counts = self._counts - removed
        stay = self.entries["tokens"] < counts[:, None]
        kept = stay.sum(-1)
        if int(kept.min()) != int(kept.max()):
            raise InvalidValueError(
                f"the last {removed} tokens cannot be taken back: some heads have dropped some of them "
                "already; protect them with protect_last"
            )
        self.seen -= removed
        self._counts = counts
        self._since_padding -= removed
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

    def _rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.held:
            self.keys, self.values = change(self.keys), change(self.values)
            self.entries = {name: change(value) for name, value in self.entries.items()}
            self._counts = None if self._counts is None else change(self._counts)
