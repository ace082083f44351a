"""A recipe inside somebody's own ``model.generate``, for as long as a ``with`` block lasts.

with accelerate(model, "fastv", keep_ratio=0.25):
    model.generate(**processor(text=..., videos=..., return_tensors="pt"))
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from streamprune.errors import InvalidTypeError, InvalidValueError, RecipeError, UnsupportedModelError
from streamprune.models.attach import alone, attach_alone
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.families import family_class
from streamprune.models.prompt_rows import VisualRows
from streamprune.pipelines.request import AnswerRequest, read_encoder, read_recipe
from streamprune.pipelines.stock_inputs import ReducedInputs, StockReducer, token_labels, visual_rows
from streamprune.recipe import Recipe
from streamprune.tokens import Reduction

__all__ = ["accelerate"]

_INSIDE = ("encoder", "pre_llm", "in_llm", "kv")
# families whose stock inputs can be shortened before the language model
_SHORTENED = ("llava_onevision",)


@contextmanager
def accelerate(
    model: Any,
    recipe: str | Path | Recipe,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    **options: Any,
) -> Iterator[None]:
    """Let ``recipe`` act in every call of ``model`` inside the block, from the vision tower on.

    Takes what the stock processor gives; answers come back as if nothing had been dropped, with the whole
    prompt in front. Afterwards the model is as it was. A cache that was filled inside holds fewer entries:
    go on with it inside.

    Args:
        model: a stock transformers model of a supported family, loaded by whoever calls.
        recipe: as for :meth:`VideoLLM.ask`, with the stages encoder, pre_llm, in_llm and kv. The first two
            need a LLaVA-OneVision model and one video a prompt; kv acts in ``generate`` alone, without beams.
        keep_ratio: share of the visual tokens KEPT, in (0, 1].
        keep_tokens: number of visual tokens kept; give one of the two.
        **options: the pre-LLM method's own options, or the in-LLM method's in a recipe without one.

    Raises UsageError, UnsupportedModelError or SignalError.
    """
    family = _family(model)
    request = _request(recipe, keep_ratio, keep_tokens, options)
    inside = _Accelerated(family, request)
    with ExitStack() as stack:
        stack.enter_context(alone(model.get_decoder()))
        stack.enter_context(inside.shortened())
        method = request.in_llm()
        if method is not None:
            stack.enter_context(attach_alone(model, method, inside.locate))
        yield


def _family(model: Any) -> VideoFamily:
    config = getattr(model, "config", None)
    if config is None or not callable(getattr(model, "get_decoder", None)):
        raise InvalidTypeError(f"model must be a transformers model, got {type(model).__name__}; see load()")
    name = getattr(config, "_name_or_path", "") or type(model).__name__
    return family_class(config.model_type, name)(Checkpoint(name, model, None, {}))


def _request(
    recipe: str | Path | Recipe, keep_ratio: float | None, keep_tokens: int | None, options: dict[str, Any]
) -> AnswerRequest:
    chosen = read_recipe(recipe, keep_ratio, keep_tokens)
    for stage in chosen.stages:
        if stage not in _INSIDE:
            raise RecipeError(
                f"the recipe {chosen.name!r} has a stage {stage!r}, which cannot act inside model.generate; "
                "vlm.ask carries it out: vlm = streamprune.load(...)"
            )
    request = AnswerRequest(("?",), chosen, options)
    asked = request.question_needs()
    if asked:
        raise RecipeError(
            f"the recipe {chosen.name!r} reads {', '.join(asked)} of the question, which model.generate "
            "cannot tell from the rest of the prompt; use vlm.ask"
        )
    return request


class _Accelerated:
    """What one block keeps: how to shorten inputs, and what is missing from which cache."""

    def __init__(self, family: VideoFamily, request: AnswerRequest) -> None:
        self._family = family
        self._model = family.model
        self._now = threading.local()
        # tokens missing from a cache; None: of several prompts, not the same number
        self._removed: weakref.WeakKeyDictionary[Any, int | None] = weakref.WeakKeyDictionary()
        self._cuts_inside = request.in_llm() is not None
        self._policy = request.policy()
        self._reducer: StockReducer | None = None
        encoder = read_encoder(request.recipe)
        if encoder is not None or "pre_llm" in request.recipe.stages:
            if family.model_type not in _SHORTENED:
                raise UnsupportedModelError(
                    f"the encoder and pre_llm stages act inside model.generate of {', '.join(_SHORTENED)} "
                    f"only, got {family.model_type}; use vlm.ask, or a recipe with an in_llm stage alone"
                )
            needs = request.needs()
            family.check_signals(needs)
            if encoder is not None:
                family.check_encoder(encoder, needs)
            self._reducer = StockReducer(family, request.method(), encoder, needs)

    def locate(self, ids: torch.Tensor) -> Sequence[VisualRows | None]:
        """The visual tokens of a call."""
        if ids.shape[1] == 1:
            return [None] * len(ids)
        reductions: tuple[Reduction, ...] | None = getattr(self._now, "reductions", None)
        self._now.reductions = None  # of the first call of a generate, later ones bring text
        return visual_rows(ids, self._family, reductions)

    @contextmanager
    def shortened(self) -> Iterator[None]:
        """Put our ``generate`` before the model's, and a hook before its forward."""
        model, own = self._model, vars(self._model).get("generate")
        self._stock = model.generate
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

    def _generate(self, inputs: Any = None, generation_config: Any = None, **given: Any) -> Any:
        if inputs is not None:
            given["input_ids"] = inputs
        if generation_config is not None:
            given["generation_config"] = generation_config
        self._check_chunks(given)
        cache = given.get("past_key_values")
        if cache is not None and cache in self._removed:
            return self._go_on(given, cache)
        reduced = None if self._reducer is None else self._reducer(given)
        if reduced is None:
            return self._with_cache(given, None)
        self._check_beams(given)
        ids = given["input_ids"]
        if given.get("max_length") is not None:
            reduced.given["max_length"] = given["max_length"] - reduced.removed
        self._now.reductions = reduced.reductions
        try:
            out = self._with_cache(reduced.given, reduced.reductions)
        finally:
            self._now.reductions = None
        self._remember(getattr(out, "past_key_values", None), reduced)
        return _with_prompt(out, ids, ids.shape[1] - reduced.removed)

    def _go_on(self, given: dict[str, Any], cache: Any) -> Any:
        """A later turn: only what is new, at the places it would have without any reduction."""
        ids, held = given["input_ids"], cache.get_seq_length()
        seen = held + self._missing(cache)
        new = ids[:, seen:]
        if new.shape[1] == 0:
            raise InvalidValueError(
                f"input_ids must hold the whole conversation and something new, got {ids.shape[1]} tokens "
                f"for a cache that has seen {seen}"
            )
        places = torch.arange(seen, ids.shape[1], device=ids.device)
        given = {
            **{name: value for name, value in given.items() if not name.startswith("pixel_values")},
            "input_ids": new,
            "attention_mask": torch.ones(1, held + new.shape[1], dtype=torch.int64, device=ids.device),
            "position_ids": places[None],
        }
        return _with_prompt(self._with_cache(given, None), ids, new.shape[1])

    def _with_cache(self, given: dict[str, Any], reductions: Sequence[Reduction] | None) -> Any:
        """The model's own generate, with a cache that the recipe's policy keeps small."""
        if self._policy is None:
            return self._stock(**given)
        from streamprune.cache.kept import KeptCache

        self._check_beams(given, least=1, why="share one cache, which a kv method keeps small for each alone")
        cache = given.get("past_key_values")
        if cache is None:
            labels = token_labels(given["input_ids"], self._family, reductions)
            cache = KeptCache.of(self._model, self._policy, labels=labels)
        elif not isinstance(cache, KeptCache):
            raise InvalidTypeError(
                f"past_key_values must be a cache that was filled in a block with a kv method, got "
                f"{type(cache).__name__}; leave it out"
            )
        with cache.watch(self._model):
            return self._stock(**{**given, "past_key_values": cache})

    def _before_model(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._reducer is None:
            return None
        if args:
            kwargs = {**kwargs, "input_ids": args[0]}
        cache = kwargs.get("past_key_values")
        if kwargs.get("pixel_values_videos") is None:
            if cache is not None and cache in self._removed and kwargs.get("position_ids") is None:
                first = cache.get_seq_length() + self._missing(cache)
                ids = kwargs["input_ids"]
                places = torch.arange(first, first + ids.shape[1], device=ids.device)
                return (), {**kwargs, "position_ids": places[None]}
            return None
        reduced = self._reducer(kwargs)
        if reduced is None:
            return None
        self._now.reductions = reduced.reductions
        given = reduced.given
        if cache is None and kwargs.get("use_cache") is not False:
            from transformers import DynamicCache

            given["past_key_values"] = DynamicCache(config=model.config.get_text_config())
        self._remember(given.get("past_key_values"), reduced)
        return (), given

    def _remember(self, cache: Any, reduced: ReducedInputs) -> None:
        if cache is not None:
            self._removed[cache] = reduced.removed if len(reduced.reductions) == 1 else None

    def _missing(self, cache: Any) -> int:
        removed = self._removed[cache]
        if removed is None:
            raise InvalidValueError(
                "a batch of several prompts cannot go on with its cache where tokens were dropped before the "
                "language model; ask one prompt at a time"
            )
        return removed

    def _check_chunks(self, given: dict[str, Any]) -> None:
        config = given.get("generation_config", self._model.generation_config)
        chunk = given.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if chunk is not None and self._cuts_inside:
            raise InvalidValueError(
                f"prefill_chunk_size={chunk} splits the prompt, and an in_llm method has to see it whole; "
                "leave it out"
            )

    def _check_beams(
        self, given: dict[str, Any], *, least: int = 2, why: str = "would mix the videos of a batch"
    ) -> None:
        """Refuse beams for ``least`` prompts or more."""
        config = given.get("generation_config", self._model.generation_config)
        several = [
            name
            for name in ("num_beams", "num_return_sequences")
            if (given.get(name, getattr(config, name, None)) or 1) > 1
        ]
        if several and len(given["input_ids"]) >= least:
            raise InvalidValueError(
                f"{' and '.join(several)} above 1 {why}; "
                + ("generate for one prompt at a time" if least > 1 else "leave it out")
            )


def _with_prompt(out: Any, ids: torch.Tensor, short: int) -> Any:
    """What generate gave for a prompt of ``short`` tokens, with the whole prompt ``ids`` in front."""
    sequences = out if isinstance(out, torch.Tensor) else out.sequences
    prompts = ids.repeat_interleave(len(sequences) // len(ids), 0)
    whole = torch.cat([prompts, sequences[:, short:]], 1)
    if isinstance(out, torch.Tensor):
        return whole
    out.sequences = whole
    return out
