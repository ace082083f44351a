"""The hooks of a method whose dropped tokens come back when a later token wants them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.in_llm.returning import ReturningMethod
from streamprune.models.attachment import Attachment
from streamprune.models.attention_rows import DecoderProjections
from streamprune.models.cache_memory import check_cache, entries_held
from streamprune.models.deepstack import Deepstack
from streamprune.models.layer_masks import layer_mask, mask_of
from streamprune.models.prompt_rows import VisualRows
from streamprune.models.set_aside import Conversation, RowsBatch
from streamprune.ops.attention_rows import attention_rows


class ReturnAttachment(Attachment):
    """Of a :class:`ReturningMethod`."""

    _method: ReturningMethod

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._caches: weakref.WeakKeyDictionary[Any, Conversation] = weakref.WeakKeyDictionary()
        if "flash" in self._decoder.config._attn_implementation:
            raise UnsupportedModelError(
                f"{type(self._method).__name__} brings tokens back out of their order, which flash attention "
                "cannot mask; load the model with attn_implementation sdpa or eager"
            )

    def install(self, model: Any) -> Iterator[Any]:
        """See the base class; also behind the language model."""
        yield from super().install(model)
        yield self._decoder.register_forward_hook(self._after_decoder, with_kwargs=True)

    def _before_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        visual = self._located()
        deepstack = Deepstack.take(kwargs, self._cuts[0])
        self._now.call = _Call(self._method, self._cuts, visual, kwargs.get("attention_mask"), deepstack)
        return args, kwargs

    def _layer_hook(self, number: int) -> Callable[..., Any]:
        implementation = self._decoder.config._attn_implementation

        def before_layer(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            call: _Call = self._now.call
            cache = kwargs.get("past_key_values")
            if number == self._cuts[0]:
                call.begin(self._conversation(cache, call, states), states)
            if call.deepstack is not None and number >= self._cuts[0]:
                states = call.with_deepstack(number, states)
            if number in self._cuts and call.talk is not None:
                call.choose(number, states, kwargs)
            if call.batch is not None:
                states, kwargs = call.rewritten(number, states, kwargs, implementation)
                if call.brings_tokens:
                    self._counted.note(number, call.batch.numbers)
            if number + 1 in self._cuts:
                call.below = layer, states, kwargs["position_embeddings"]
            if number < self._cuts[0]:
                return None
            return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

        return before_layer

    def _conversation(self, cache: Any, call: _Call, states: torch.Tensor) -> Conversation | None:
        """What is known about ``cache``, with what this call brings; None where nothing may go."""
        known = Conversation() if cache is None else self._caches.get(cache)
        first, rows = self._cuts[0], states.shape[1]
        if known is None:
            if not call.brings_tokens:
                return None
            check_cache(cache)
            self._check_stock(cache)
            known = self._caches[cache] = Conversation(seen=cache.get_seq_length() - rows)
            if any(entries_held(cache, cut, rows) < known.seen for cut in self._cuts):
                raise _edited()
        elif cache is not None:
            seen = cache.get_seq_length() - rows
            if known.numbers and (known.keys is not cache.layers[first].keys or known.seen != seen):
                raise _edited()
            known.crop(seen)
        known.add(call.visual, len(states), states.device)
        return known

    def _after_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        call: _Call = self._now.call
        cache = kwargs.get("past_key_values")
        if call.talk is None:
            return None
        if cache is None:
            cache = getattr(output, "past_key_values", None)
        if cache is not None and cache in self._caches:
            call.talk.keys = cache.layers[self._cuts[0]].keys
            call.talk.seen += call.length
        if call.batch is None:
            return None
        # what came back is nobody's to see
        new = int((call.batch.numbers >= call.first).sum(1).max())
        if isinstance(output, tuple):
            return (output[0][:, -new:], *output[1:])
        output.last_hidden_state = output.last_hidden_state[:, -new:]
        return output


class _Call:
    """One call, from the first layer to the last.

    Args:
        visual: the visual tokens it brings.
        padding: (batch, tokens seen and new) the mask of the call, None = all count.
        deepstack: what visual rows are still given above the first cut.
    """

    def __init__(
        self,
        method: ReturningMethod,
        cuts: tuple[int, ...],
        visual: Sequence[VisualRows | None],
        padding: Any,
        deepstack: Deepstack | None,
    ) -> None:
        self._method = method
        self._cuts = cuts
        self.visual = visual
        self._padding = padding
        self.deepstack = deepstack
        self.talk: Conversation | None = None
        self.batch: RowsBatch | None = None
        # the layer below the cut, the states that entered it, and their tables
        self.below: Any = None
        self.length = 0
        self.first = 0
        self._stage = 0

    @property
    def brings_tokens(self) -> bool:
        """Whether any prompt of this call has visual tokens."""
        return any(rows is not None for rows in self.visual)

    def begin(self, talk: Conversation | None, states: torch.Tensor) -> None:
        """The call goes on with ``talk``, None = as it is."""
        self.talk = talk
        if talk is not None:
            self.length, self.first = states.shape[1], talk.seen
            # (batch, tokens) what the layers from here on attend to
            self._alive = self._not_padding(states)

    def with_deepstack(self, number: int, states: torch.Tensor) -> torch.Tensor:
        """``states`` as they enter layer ``number``, with what the one below adds to rows of this call."""
        assert self.deepstack is not None  # asked for there only
        if self.batch is None:
            return self.deepstack.add(number, states, None)
        numbers = self.batch.numbers
        added = self.deepstack.add(number, states, (numbers - self.first).clamp(min=0))
        return torch.where((numbers >= self.first)[..., None], added, states)

    def choose(self, number: int, states: torch.Tensor, given: dict[str, Any]) -> None:
        """Ask about every prompt before layer ``number``; what goes on is :attr:`batch`."""
        talk, cut = self.talk, self._cuts.index(number)
        assert talk is not None  # asked for there only
        if all(self._method.keeps_everything(len(visual)) for visual in talk.visual) and not talk.numbers:
            return
        batch = self._entered(states, given)
        alive, parts = self._alive.clone(), []
        waiting = talk.waiting.setdefault(cut + 1, [None] * len(states))
        for row, visual in enumerate(talk.visual):
            own = batch.rows(row)
            at_hand = visual[alive[row, visual]]
            if len(at_hand) and not self._method.keeps_everything(len(visual)):
                scores = self._scores(talk, row, cut, given.get("past_key_values"))[at_hand]
                chosen = self._method.choose(scores, cut, len(self._cuts), len(visual))
                alive[row, at_hand] = False
                alive[row, at_hand[chosen]] = True
            goes = alive[row, own.numbers]
            kept, aside = waiting[row], own.part(~goes)
            own = own.part(goes)
            if kept is not None:
                back = alive[row, kept.numbers]
                own, aside = own.joined(kept.part(back)), aside.joined(kept.part(~back))
            waiting[row] = aside
            parts.append(own)
        self._alive, self._stage, self.batch = alive, cut + 1, RowsBatch.of(parts)
        self._remember(talk, self.batch.numbers, number, given.get("past_key_values"))

    def _entered(self, states: torch.Tensor, given: dict[str, Any]) -> RowsBatch:
        """What is about to enter a layer as it is."""
        if self.batch is not None:
            return RowsBatch(self.batch.numbers, states, self.batch.tables)
        new = torch.arange(self.first, self.first + self.length, device=states.device)
        numbers = torch.where(self._alive[:, self.first :], new, -1)
        cos, sin = (
            table.to(states.device).expand(len(states), -1, -1) for table in given["position_embeddings"]
        )
        return RowsBatch(numbers, states, (cos, sin))

    def _scores(self, talk: Conversation, row: int, cut: int, cache: Any) -> torch.Tensor:
        """(tokens,) what the last row of a prompt pays each in the layer below, mean over heads."""
        layer, states, tables = self.below
        device = self._alive.device
        if self.batch is None:
            numbers = torch.arange(self._alive.shape[1], device=device)
            here = self._alive[row, self.first :]
        else:
            numbers, here = talk.numbers[self._stage][row], self.batch.numbers[row] >= 0
        cos, sin = (table[min(row, len(table) - 1)].to(device)[here] for table in tables)
        rows = DecoderProjections(layer, states[row].to(device)[here], (cos, sin), device)
        if cache is None:
            numbers, keys = numbers[numbers >= 0] if self.batch is not None else numbers[here], rows.keys()
        else:
            keys = cache.layers[self._cuts[cut] - 1].keys[row].to(device)
        seen = (numbers >= 0) & self._alive[row, numbers.clamp(min=0)]
        last = torch.tensor([int(here.sum()) - 1], device=device)
        attention = attention_rows(rows.queries(last), keys[:, seen].float(), rows.scaling)[:, 0].mean(0)
        scores = attention.new_zeros(self._alive.shape[1])
        scores[numbers[seen]] = attention
        return scores

    def _remember(self, talk: Conversation, numbers: torch.Tensor, layer: int, cache: Any) -> None:
        """Note which entries this stage's layers, from ``layer`` on, are about to get."""
        held = 0 if cache is None else entries_held(cache, layer, numbers.shape[1])
        before = talk.numbers.get(self._stage)
        if before is None:  # everything so far, in its order
            tokens = torch.arange(held, device=numbers.device).expand(len(numbers), -1)
            before = torch.where(self._not_padding(numbers)[:, :held], tokens, -1)
        talk.numbers[self._stage] = torch.cat([before, numbers], 1)

    def rewritten(
        self, number: int, states: torch.Tensor, given: dict[str, Any], implementation: str
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """What layer ``number`` gets."""
        batch, talk = self.batch, self.talk
        assert batch is not None
        assert talk is not None  # with a batch there is a conversation
        if number in self._cuts:
            states = batch.states
        device = states.device
        query, key = batch.numbers.to(device), talk.numbers[self._stage].to(device)
        alive = self._alive.to(device).gather(1, key.clamp(min=0)) & (key >= 0)
        held = key.shape[1] - query.shape[1]
        in_order = bool((key[:, 1:] > key[:, :-1]).all()) and bool(alive.all())
        if in_order:
            mask = layer_mask(implementation, states, held, None)
        else:
            own = torch.arange(key.shape[1], device=device) == held + torch.arange(
                query.shape[1], device=device
            ).unsqueeze(1)
            seen = (key[:, None] <= query[:, :, None]) & alive[:, None]
            mask = mask_of(implementation, (seen | own)[:, None], states.dtype)
        cos, sin = (table.to(given["position_embeddings"][0]) for table in batch.tables)
        return states, {
            **given,
            "attention_mask": mask,
            "position_embeddings": (cos, sin),
            "position_ids": None,
        }

    def _not_padding(self, like: torch.Tensor) -> torch.Tensor:
        """(batch, tokens seen and new) bool."""
        tokens = self.first + self.length
        mask = self._padding
        if mask is None:
            return torch.ones(len(like), tokens, dtype=torch.bool, device=like.device)
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or mask.shape[1] != tokens:
            raise InvalidValueError(
                f"attention_mask must be None or (batch, {tokens}), all tokens of the conversation, got "
                f"{tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__}"
            )
        return mask.bool().to(like.device)


def _edited() -> InvalidValueError:
    return InvalidValueError(
        "this cache was cropped, reordered (beams) or filled elsewhere since tokens were set aside, so that "
        "nothing says which entry is which token; start a new cache, without beams"
    )
