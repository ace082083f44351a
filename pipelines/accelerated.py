"""A stock model while a recipe acts in it: ``generate``, forward calls, and caches between them."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.models.base import VideoFamily
from streamprune.models.prompt_rows import VisualRows
from streamprune.models.short_prompts import as_one
from streamprune.models.stock_inputs import StockInputs
from streamprune.pipelines.generate_arguments import GenerateArguments, with_prompt
from streamprune.pipelines.stock_inputs import InputsReader, ReadInputs, Reducing, token_labels

if TYPE_CHECKING:
    from streamprune.kv.method import CacheMethod


@dataclass(frozen=True)
class _Missing:
    """What a cache does not hold.

    Attributes:
        removed: tokens of the full prompt.
        offset: from a token's number in the full conversation to its position.
        axes: of positions, before the batch.
    """

    removed: int
    offset: int
    axes: tuple[int, ...]


class Accelerated:
    """Stands between a model and whoever calls it.

    Args:
        family: the model's.
        stock: how its processor writes videos; None where nothing before the language model needs to know.
        reducing: what is done before the language model.
        cache_method: keeps caches small.
        cuts_inside: whether tokens are dropped inside the language model.
    """

    def __init__(
        self,
        family: VideoFamily,
        stock: StockInputs | None,
        reducing: Reducing | None,
        cache_method: CacheMethod | None,
        *,
        cuts_inside: bool,
    ) -> None:
        self._model = family.model
        self._stock = stock
        self._reducing = reducing
        self._cache_method = cache_method
        self._cuts_inside = cuts_inside
        self._read = None if stock is None else InputsReader(family, stock, reducing)
        # each thread has a call of its own under way: what it was given, and whether generate makes it
        self._now = threading.local()
        # None: of several prompts, not the same for all
        self._missing: weakref.WeakKeyDictionary[Any, _Missing | None] = weakref.WeakKeyDictionary()

    def locate(self, ids: torch.Tensor) -> Sequence[VisualRows | None]:
        """The visual tokens of a call with the prompts ``ids`` (batch, rows)."""
        if ids.shape[1] == 1:
            return [None] * len(ids)
        now: ReadInputs | None = getattr(self._now, "inputs", None)
        shown = None if now is None else now.shown
        if now is None or shown is None:
            return [as_one(videos) for videos in self._marked(ids)]
        if ids.shape[1] < now.length:  # words of the answer
            return [None] * len(ids)
        # prompts that were repeated for beams follow one another
        return [as_one(shown[row * len(shown) // len(ids)]) for row in range(len(ids))]

    def _marked(self, ids: torch.Tensor) -> list[list[VisualRows]]:
        """The placeholders of each prompt, where nobody knows what they stand for."""
        marked = [self._placeholders(row).nonzero()[:, 0] for row in ids]
        return [[VisualRows(rows)] if len(rows) else [] for rows in marked]

    def _placeholders(self, ids: torch.Tensor) -> torch.Tensor:
        if self._stock is not None:
            return self._stock.placeholders(ids)
        config = self._model.config
        either = [getattr(config, name, -1) for name in ("video_token_id", "image_token_id")]
        return (ids == either[0]) | (ids == either[1])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put our ``generate`` before the model's, and a hook before its forward."""
        model, own = self._model, vars(self._model).get("generate")
        names = () if self._stock is None else self._stock.remembered
        before = {name: getattr(model.base_model, name) for name in names if hasattr(model.base_model, name)}
        self._generate_stock = model.generate
        handle = model.register_forward_pre_hook(self._before_model, with_kwargs=True)
        model.generate = self._generate
        try:
            yield
        finally:
            handle.remove()
            if own is None:
                del model.generate
            else:
                model.generate = own
            for name, value in before.items():
                setattr(model.base_model, name, value)

    def _generate(self, inputs: Any = None, generation_config: Any = None, **given: Any) -> Any:
        arguments = GenerateArguments.of(self._model, inputs, generation_config, given)
        ids, given = arguments.check_prompt(), arguments.given
        arguments.check_alone()
        if self._cuts_inside:
            arguments.check_whole()
            arguments.check_growing_cache()
        if self._cuts_inside or self._cache_method is not None:
            arguments.check_cached()
        cache = given.get("past_key_values")
        if cache is not None and cache in self._missing:
            return self._go_on(arguments, cache)
        read = self._read_inputs(given)
        if not read.changed:
            return self._with_cache(arguments, read)
        arguments.check_cached()
        arguments.check_beams(least=2, why="would mix the videos of a batch")
        short = ReadInputs(
            {**read.given, **arguments.for_shorter(read.removed)}, True, read.shown, read.length
        )
        out = self._with_cache(arguments, short)
        self._remember(getattr(out, "past_key_values", None), read, ids)
        return with_prompt(out, ids, read.length)

    def _read_inputs(self, given: dict[str, Any]) -> ReadInputs:
        """Arguments of a call that starts a conversation, or goes on with a cache that lacks nothing."""
        if self._read is None or self._stock is None:
            return ReadInputs(dict(given))
        cache = given.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            return self._read(given)
        if self._reducing is not None and not self._reducing.keeps_all:
            self._check_no_video(given)
        return ReadInputs(dict(given))

    def _check_no_video(self, given: dict[str, Any]) -> None:
        """Refuse new videos for a cache that holds something."""
        assert self._stock is not None  # something is to be dropped
        if any(
            given.get(name) is not None for name in ("mm_encoder_outputs", self._stock.video_arguments[0])
        ):
            _refuse_later("video")

    def _check_text(self, given: dict[str, Any], new: torch.Tensor) -> None:
        """Refuse pixels for ``new`` tokens, for a cache from which some are missing.

        The first is the last word of the answer before, which may be anything.
        """
        if not any(given.get(name) is not None for name in ("pixel_values", "pixel_values_videos")):
            return
        config = self._model.config
        for kind, noun in (("video", "video"), ("image", "picture")):
            if bool((new[:, 1:] == getattr(config, f"{kind}_token_id", -1)).any()):
                _refuse_later(noun)

    def _go_on(self, arguments: GenerateArguments, cache: Any) -> Any:
        """A later turn: only what is new, at the places it would have without any reduction."""
        given, ids, held = arguments.given, arguments.check_prompt(), cache.get_seq_length()
        missing = self._missing_of(cache)
        seen = held + missing.removed
        new = ids[:, seen:]
        if new.shape[1] == 0:
            raise InvalidValueError(
                f"input_ids must hold the whole conversation and something new, got {ids.shape[1]} tokens "
                f"for a cache that has seen {seen}"
            )
        self._check_text(given, new)
        assert self._stock is not None  # something was dropped
        changed = {
            **self._stock.arguments_left(given),
            **arguments.for_shorter(seen - held),
            "input_ids": new,
            "attention_mask": ids.new_ones((len(ids), held + new.shape[1])),
            "position_ids": _places(new, seen, missing),
        }
        changed.pop("mm_encoder_outputs", None)
        out = self._with_cache(arguments, ReadInputs(changed, True, ((),) * len(ids)))
        return with_prompt(out, ids, new.shape[1])

    def _with_cache(self, arguments: GenerateArguments, read: ReadInputs) -> Any:
        """The model's own generate, with a cache that the recipe's kv stage keeps small."""
        self._now.inputs, self._now.generates = read, True
        try:
            if self._cache_method is None:
                return self._generate_stock(**read.given)
            return self._with_kept_cache(self._cache_method, arguments, read)
        finally:
            self._now.inputs, self._now.generates = None, False

    def _with_kept_cache(self, method: CacheMethod, arguments: GenerateArguments, read: ReadInputs) -> Any:
        from streamprune.cache.kept import KeptCache

        arguments.check_own_cache()
        arguments.check_beams(least=1, why="share one cache, which a kv method keeps small for each alone")
        cache = read.given.get("past_key_values")
        if cache is None:
            ids = read.given["input_ids"]
            labels = token_labels(ids, self._marked(ids) if read.shown is None else read.shown)
            cache = KeptCache.of(self._model, method, labels=labels)
        elif not isinstance(cache, KeptCache):
            raise InvalidTypeError(
                f"past_key_values must be a cache that was filled in a block with a kv method, got "
                f"{type(cache).__name__}; leave it out"
            )
        with cache.watch(self._model):
            return self._generate_stock(**{**read.given, "past_key_values": cache})

    def _before_model(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that generate does not make gets its inputs reduced here."""
        if getattr(self._now, "generates", False):
            return None
        if args:
            kwargs = {**kwargs, "input_ids": args[0]}
        cache, ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
        if cache is not None and cache in self._missing:
            missing = self._missing_of(cache)
            if ids is None or kwargs.get("position_ids") is not None:
                return None
            self._check_text(kwargs, ids)
            seen = cache.get_seq_length() + missing.removed
            return (), {**kwargs, "position_ids": _places(ids, seen, missing)}
        if ids is None:
            self._check_embeds(kwargs)
            return None
        read = self._now.inputs = self._read_inputs(kwargs)
        if not read.changed:
            return None
        given = read.given
        if cache is None and kwargs.get("use_cache") is not False:
            from transformers import DynamicCache

            given["past_key_values"] = DynamicCache(config=model.config.get_text_config())
        self._remember(given.get("past_key_values"), read, ids)
        return (), given

    def _check_embeds(self, given: dict[str, Any]) -> None:
        if self._reducing is not None:
            GenerateArguments(self._model, given).check_prompt()

    def _remember(self, cache: Any, read: ReadInputs, ids: torch.Tensor) -> None:
        if cache is None:
            return
        if read.later is None:
            self._missing[cache] = None
            return
        axes = tuple(read.given["position_ids"].shape[:-2])
        self._missing[cache] = _Missing(read.removed, read.later - ids.shape[1], axes)

    def _missing_of(self, cache: Any) -> _Missing:
        missing = self._missing[cache]
        if missing is None:
            raise InvalidValueError(
                "a batch of several prompts cannot go on with its cache where tokens were dropped before the "
                "language model; ask one prompt at a time"
            )
        return missing


def _places(new: torch.Tensor, seen: int, missing: _Missing) -> torch.Tensor:
    """(..., batch, length) positions of the tokens ``new``, of which ``seen`` came before."""
    places = torch.arange(seen, seen + new.shape[1], device=new.device) + missing.offset
    return places.expand(*missing.axes, *new.shape)


def _refuse_later(kind: str) -> NoReturn:
    raise InvalidValueError(
        f"a later turn cannot bring another {kind} where tokens are dropped before the language model; start "
        "anew, with everything and without past_key_values"
    )
