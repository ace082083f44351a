"""A recipe inside somebody's own ``model.generate``, for as long as a ``with`` block lasts.

with accelerate(model, "fastv", keep_ratio=0.25):
    model.generate(**processor(text=..., videos=..., return_tensors="pt"))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from streamprune.errors import InvalidTypeError, RecipeError, UnsupportedModelError
from streamprune.models.attach import alone, attach_alone
from streamprune.models.base import Checkpoint, VideoFamily
from streamprune.models.checkpoint_files import read_pooling_head
from streamprune.models.families import family_class
from streamprune.models.inside_tower import check_inside
from streamprune.models.stock_inputs import StockInputs
from streamprune.pipelines.accelerated import Accelerated
from streamprune.pipelines.request import AnswerRequest, read_encoder, read_recipe
from streamprune.pipelines.stock_inputs import Reducing
from streamprune.recipe import Recipe

__all__ = ["accelerate"]

_INSIDE = ("encoder", "pre_llm", "in_llm", "kv")


@contextmanager
def accelerate(
    model: Any,
    recipe: str | Path | Recipe,
    *,
    keep_ratio: float | None = None,
    keep_tokens: int | None = None,
    processor: Any = None,
    pooling_head: str | Path | None = None,
    **options: Any,
) -> Iterator[None]:
    """Let ``recipe`` act in every call of ``model`` inside the block, from the vision tower on.

    Takes what the stock processor gives; answers come back as if nothing had been dropped, with the whole
    prompt in front. Before the language model every video is reduced by itself, to the budget; inside it the
    videos of a prompt share it. Pictures beside videos stay whole, and so do prompts without a video.
    Afterwards the model is as it was. A cache that was filled inside holds fewer entries: go on with it
    inside.

    Rows of a batch are answered like prompts alone, and threads may share a block. Refused where tokens are
    dropped: ``assistant_model``; ``inputs_embeds`` without ``input_ids``; ``use_cache=False``; beams for
    several prompts at once, or with a kv stage; ``prefill_chunk_size`` or a static cache with an in_llm
    stage; another video in a later turn with the same cache. What generate hands to other people's stopping
    criteria and logits processors is the shorter prompt.

    Args:
        model: a stock transformers model of a supported family, loaded by whoever calls.
        recipe: as for :meth:`VideoLLM.ask`, with the stages encoder, pre_llm, in_llm and kv; kv acts in
            ``generate`` alone.
        keep_ratio: share of the visual tokens of each video KEPT, in (0, 1].
        keep_tokens: number of visual tokens kept; give one of the two.
        processor: the model's processor or tokenizer. InternVL and SmolVLM get frames as pictures: with it
            other pictures are told from frames, and several videos in one prompt from each other; without it
            all pictures of a prompt count as frames of one video. A processor also says how colours are
            scaled, for methods that compare pixels.
        pooling_head: as for :func:`streamprune.load`, for LLaVA-OneVision models; by default the one beside
            the weights in the model's local folder, if there is one.
        **options: the pre-LLM method's own options, or the in-LLM method's in a recipe without one.

    Raises UsageError, UnsupportedModelError or SignalError.
    """
    request = _request(recipe, keep_ratio, keep_tokens, options)
    family = _family(model, processor, pooling_head, request)
    reducing = _reducing(family, request)
    method = request.in_llm()
    inside = Accelerated(
        family,
        _stock_inputs(family, needed=reducing is not None),
        reducing,
        request.cache_method(),
        cuts_inside=method is not None,
    )
    with ExitStack() as stack:
        stack.enter_context(alone(model.get_decoder()))
        stack.enter_context(inside.in_place())
        if method is not None:
            stack.enter_context(attach_alone(model, method, inside.locate))
        yield


def _family(
    model: Any, processor: Any, pooling_head: str | Path | None, request: AnswerRequest
) -> VideoFamily:
    config = getattr(model, "config", None)
    if config is None or not callable(getattr(model, "get_decoder", None)):
        raise InvalidTypeError(f"model must be a transformers model, got {type(model).__name__}; see load()")
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is not None and not callable(getattr(tokenizer, "decode", None)):
        raise InvalidTypeError(
            f"processor must be the model's processor or tokenizer, got {type(processor).__name__}"
        )
    shown = getattr(processor, "video_processor", None)
    names = ("image_mean", "image_std")
    colours = {name: getattr(shown, name) for name in names if getattr(shown, name, None) is not None}
    name = getattr(config, "_name_or_path", "") or type(model).__name__
    cls = family_class(config.model_type, name)
    head = None
    # a head is read from its file when something may ask for it, and never from the hub without being told to
    if pooling_head is not None or (request.needs() and Path(name).is_dir()):
        head = read_pooling_head(pooling_head, name)
    return cls(Checkpoint(name, model, tokenizer, colours, head))


def _stock_inputs(family: VideoFamily, *, needed: bool) -> StockInputs | None:
    """How the family's processor writes videos; None where that is not known and not ``needed``."""
    try:
        return family.stock_inputs()
    except UnsupportedModelError:
        if needed:
            raise
        return None


def _reducing(family: VideoFamily, request: AnswerRequest) -> Reducing | None:
    """What the request does before the language model, after checking that this model can; None = nothing."""
    encoder = read_encoder(request.recipe)
    if encoder is None and "pre_llm" not in request.recipe.stages:
        return None
    needs = request.needs()
    family.check_signals(needs)
    if encoder is not None:
        check_inside(family, encoder, needs)
    return Reducing(request.method(), encoder, needs, request.placing())


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
