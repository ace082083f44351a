"""One layer of a key-value cache that holds fewer entries than it has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from streamprune.cache.shelf import Turn
from streamprune.cache.shelved_layer import ShelvedLayer
from streamprune.cache.token_numbers import TokenNumbers
from streamprune.errors import InvalidValueError
from streamprune.kv.base import Replacement
from streamprune.kv.store import Chain, Kind, Place
from streamprune.kv.view import LayerView
from streamprune.ops.rotary import turned_further

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache
    from streamprune.cache.watch import Looked

# what takes a call that leaves nothing behind: keys, values -> all there are for its attention
Instead = Callable[[torch.Tensor, torch.Tensor, "Looked"], tuple[torch.Tensor, torch.Tensor]]

# what is stored per entry and is no state of the policy
_PLACES = ("stored_at", "stored_at_1", "stored_at_2")
_OWN = ("tokens", "segments", "cells", *_PLACES)


class KeptLayer(ShelvedLayer):
    """One layer's entries; ``KeptCache`` makes them.

    Attributes:
        seen: tokens so far, dropped ones and padding included.
        looked_at: entries that the tokens of the last answer have attended to, itself included, added up.
        entries: (rows, heads, held) tensors that travel with the keys through every operation: "tokens", the
            number of each entry's token in its row (-1 = padding); "segments" when tokens were labelled;
            "stored_at", the position its key was rotated to, when positions are compact or keys are stored
            before rotation ("stored_at_1" and "stored_at_2" along more axes); and the policy's own state.
    """

    def __init__(self, owner: KeptCache, number: int) -> None:
        super().__init__()
        self._owner = owner
        self._number = number
        self._forget()

    def _forget(self) -> None:
        self.seen = self.looked_at = 0
        self.entries: dict[str, torch.Tensor] = {}
        self.looked: Looked | None = None
        self.instead: Instead | None = None
        self._prompt = self._newest = 0
        self._moved = False
        self._merged_until: torch.Tensor | None = None
        self._numbers: TokenNumbers | None = None
        self._chains: dict[Kind, Chain] = {}

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Everything that is stored per entry."""
        shelved = [tensor for shelf in self._shelves.values() for tensor in shelf.tensors]
        return [*shelved, *self.entries.values()] if self.held else []

    @property
    def has_padding(self) -> bool:
        """Whether some entries stand, or stood, for padding."""
        return self._numbers is not None and self._numbers.has_padding

    @property
    def bias(self) -> torch.Tensor | None:
        """(rows, heads, held) float32 to add to the logits of attention; None while nothing was merged."""
        return None if self._merged_until is None else self._owner.policy.bias(self._state())

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the entries of a call and return all of them for its attention; store what the policy keeps."""
        looked, self.looked = self.looked, None
        new = int(key_states.shape[-2])
        self._check(new, looked)
        if self.instead is not None and looked is not None:
            return self.instead(key_states, value_states, looked)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._shelves["keys"].add(key_states)
        self._shelves["values"].add(value_states)
        if self._is_numbered(looked):
            self._extend(key_states, looked)
        self.seen, self._newest = self.seen + new, new
        if new > 1 or self.seen == new:
            self._prompt, self.looked_at = self.seen, 0
        else:
            self.looked_at += self.held
        keys, values = self.keys, self.values
        if not self._owner.policy.keeps_all:
            stored, keys = keys, self._in_place(keys, looked)
            self._reduce(keys, values, stored, new, looked)
        self._settle()
        return keys, values

    def over_budget(self) -> bool:
        """Whether the policy would drop entries after this call of a prompt, now that it is over."""
        if self._owner.policy.keeps_all or not self.held:
            return False
        keys, values = self.keys, self.values
        view = self._view(keys, values, self._newest, None)
        entry_bytes = _entry_bytes([keys, values, *self.entries.values()])
        return not view.decoding and self._owner.policy.room(view, entry_bytes) is not None

    def decide(self, state: Mapping[str, torch.Tensor]) -> None:
        """Let the policy drop entries of a prompt that is over, now that ``state`` is known of them."""
        self.entries.update(state)
        keys, values = self.keys, self.values
        view = self._view(keys, values, self._newest, None)
        limit = self._owner.policy.room(view, _entry_bytes([keys, values, *self.entries.values()]))
        if limit is not None:
            self._replace(self._owner.policy.reduced(view, limit), keys, values)
            self._settle()

    def _reduce(
        self, keys: torch.Tensor, values: torch.Tensor, stored: torch.Tensor, new: int, looked: Looked | None
    ) -> None:
        """Let the policy decide about ``keys``, which are held as ``stored``, and ``values``."""
        policy = self._owner.policy
        self.entries.update(policy.observe(self._view(keys, values, new, looked)))
        entry_bytes = _entry_bytes([stored, values, *self.entries.values()])
        replacement = policy.replace(self._view(keys, values, new, looked), entry_bytes)
        if replacement is not None:
            self._replace(replacement, stored, values)

    def _settle(self) -> None:
        """Give what has grown old to the stores."""
        if not self._owner.stores:
            return
        hidden = self.entries["tokens"] < 0 if self.has_padding else None
        for kind, shelf in self._shelves.items():
            if kind not in self._chains and shelf.exact is not None:
                heads, dim = int(shelf.exact.shape[1]), int(shelf.exact.shape[-1])
                place = Place(kind, self._number, self._owner.depth, heads, dim)
                self._chains[kind] = Chain(place, self._owner.stores)
            unrotated = self._owner.unrotated and kind == "keys"
            shelf.settle(self._chains[kind], hidden, self._turned_back if unrotated else None)

    def _turn(self) -> Turn | None:
        return self._turned if self._owner.unrotated else None

    def _turned(self, keys: torch.Tensor, first: int, *, back: bool = False) -> torch.Tensor:
        """``keys`` of the entries from ``first`` on, turned to where the model put them."""
        some = slice(first, first + keys.shape[2])
        places = torch.stack([self.entries[name][..., some] for name in _PLACES if name in self.entries])
        assert self._owner.rotation is not None  # nothing is stored before rotation without being watched
        return self._owner.rotation.turned(keys, places, back=back)

    def _turned_back(self, keys: torch.Tensor, first: int) -> torch.Tensor:
        return self._turned(keys, first, back=True)

    def _check(self, new: int, looked: Looked | None) -> None:
        """Refuse a call that nobody told this layer about when it has to know more than keys and values."""
        policy, wants = self._owner.policy, None
        if looked is not None:
            return
        if self._owner.unrotated:
            wants = "a store with unrotated=True has to know positions"
        elif policy.keeps_all:
            return
        elif policy.rereads:
            wants = f"{type(policy).__name__} has the model read prompts again"
        elif policy.query_rows(new):
            wants = f"{type(policy).__name__} reads the model's queries"
        elif policy.merges:
            wants = "merged entries are worth more attention than others"
        elif self._owner.compact:
            wants = "compact positions are given to the model's queries too"
        if wants:
            raise InvalidValueError(f"{wants}: call the model inside `with cache.watch(model):`")

    def _is_numbered(self, looked: Looked | None) -> bool:
        """Whether it is known which token each entry stands for; not where none is ever dropped or hidden."""
        padded = looked is not None and looked.visible is not None
        told = self._owner.unrotated or self._numbers is not None
        return not self._owner.policy.keeps_all or told or padded

    def _in_place(self, keys: torch.Tensor, looked: Looked | None) -> torch.Tensor:
        """``keys`` at the positions 0, 1, 2, ... if they are to be moved; each is turned once, as stored."""
        if looked is None or looked.frequencies is None or not self._owner.compact or not self._moved:
            return keys
        places = torch.arange(keys.shape[-2], device=keys.device)
        return turned_further(keys, places - self.entries["stored_at"], looked.frequencies)

    def _extend(self, key_states: torch.Tensor, looked: Looked | None) -> None:
        """Number the new tokens and carry on what is stored per entry."""
        rows, heads, new, _ = key_states.shape
        if self._numbers is None:
            self._numbers = TokenNumbers(rows, self.seen, key_states.device)
            if self.seen:  # so far nothing had to be known about entries
                places = torch.arange(self.seen, device=key_states.device, dtype=torch.int32)
                self.entries["tokens"] = places.repeat(rows, heads, 1)
        numbers = self._numbers.next(new, None if looked is None else looked.visible)
        fresh = {"tokens": numbers[:, None].expand(rows, heads, new)}
        if self._owner.labels is not None:
            for name, label in self._owner.labels.part(self.seen, new).items():
                fresh[name] = label.to(key_states.device)[:, None].expand(rows, heads, new)
        if self._owner.compact:
            places = torch.arange(self.held - new, self.held, device=key_states.device, dtype=torch.int32)
            fresh["stored_at"] = places.expand(rows, heads, new)
        elif looked is not None and looked.places is not None:
            for name, axis in zip(_PLACES, looked.places.int(), strict=False):
                fresh[name] = axis.to(key_states.device)[:, None].expand(rows, heads, new)
        for name, value in self.entries.items():
            fresh.setdefault(name, value.new_zeros(rows, heads, new))
        self.entries = {
            name: torch.cat([self.entries[name], value], -1) if name in self.entries else value.contiguous()
            for name, value in fresh.items()
        }

    def _view(self, keys: torch.Tensor, values: torch.Tensor, new: int, looked: Looked | None) -> LayerView:
        return LayerView(
            keys=keys,
            values=values,
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

    def _keep(self, chosen: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Gather the chosen entries into storage of their own, so that the old one is freed."""
        self._moved = True
        self._shelves["keys"].take(chosen, keys)
        self._shelves["values"].take(chosen, values)
        self.entries = {name: value.gather(2, chosen) for name, value in self.entries.items()}

    def _replace(self, replacement: Replacement, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep what was chosen of ``keys`` and ``values``, and put in what it has become."""
        self._keep(replacement.chosen, keys, values)
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
        numbers = self._numbers
        if numbers is None:
            self.seen -= removed
            keys, values = self.keys, self.values
            self._keep(torch.arange(self.seen, device=keys.device).expand(*keys.shape[:2], -1), keys, values)
            return
        if numbers.has_padding and removed > numbers.since_padding:
            raise InvalidValueError("a batch cannot be cropped back into a part that was padded")
        if self._merged_until is not None and int(self._merged_until) >= int(numbers.counts.min()) - removed:
            raise InvalidValueError(
                f"the last {removed} tokens cannot be taken back: some of them have been merged into other "
                "entries already; protect them with protect_last"
            )
        stay = self.entries["tokens"] < numbers.counts[:, None] - removed
        kept = stay.sum(-1)
        if int(kept.min()) != int(kept.max()):
            raise InvalidValueError(
                f"the last {removed} tokens cannot be taken back: some heads have dropped some of them "
                "already; protect them with protect_last"
            )
        self.seen -= removed
        numbers.forget(removed)
        self._prompt = min(self._prompt, self.seen)
        self._keep(stay.nonzero()[:, -1].reshape(*kept.shape, -1), self.keys, self.values)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._forget()

    def _rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if self.held:
            super()._rows(change)
            self.entries = {name: change(value) for name, value in self.entries.items()}
            if self._numbers is not None:
                self._numbers.counts = change(self._numbers.counts)


def _entry_bytes(tensors: list[torch.Tensor]) -> int:
    """What one entry takes in all of ``tensors`` (rows, heads, entries, ...)."""
    return sum(tensor.nbytes for tensor in tensors) // tensors[0].shape[2]
