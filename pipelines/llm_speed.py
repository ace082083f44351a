"""How long a language model takes with a recipe, beside the same model without one in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.metrics.made_clip import made_clip
from streamprune.metrics.memory import PeakMemory, kv_bytes
from streamprune.models.attach import attach_to_prompt
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.generation import generate
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.request import AnswerRequest
from streamprune.pipelines.stopwatch import wait_for
from streamprune.recipe import Recipe
from streamprune.reduce import run_reducer
from streamprune.reduction import Reduction
from streamprune.tokens import VideoGrid, VisualTokens

# frames of so many rows and columns, as LLaVA-OneVision has them
_SIDE = 14
_SCENES = 8
_NEW_TOKENS = 9
_QUESTION = "what is it?"


@dataclass(frozen=True)
class Run:
    """One answer.

    Attributes:
        prefill_seconds: of the language model, from the prompt to the first token.
        step_seconds: of each later token.
        kv_bytes: of the cache after the answer.
        peak_bytes: most memory beyond what was held before; None on the CPU, where memory that earlier work
            left with the allocator is used again unseen.
    """

    prefill_seconds: float
    step_seconds: float
    kv_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True)
class LLMSpeed:
    """One recipe beside the stock model.

    Attributes:
        recipe: its name.
        keep_ratio: share asked for.
        visual_tokens: of the video.
        kept_tokens: of those, how many entered the language model.
        reduce_seconds: choosing them, which is in no other figure.
        pairs: answers without and with the recipe, taken in turn: a busy machine slows both of a pair alike.
    """

    recipe: str
    keep_ratio: float
    visual_tokens: int
    kept_tokens: int
    reduce_seconds: float
    pairs: tuple[tuple[Run, Run], ...]

    def _median(self, of: Callable[[Run, Run], float]) -> float:
        return statistics.median(of(stock, run) for stock, run in self.pairs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, flat; medians over the pairs."""
        peaks = [
            run.peak_bytes / stock.peak_bytes
            for stock, run in self.pairs
            if stock.peak_bytes and run.peak_bytes is not None
        ]
        extra = self._median(lambda stock, run: run.step_seconds - stock.step_seconds)
        return {
            "recipe": self.recipe,
            "keep_ratio": self.keep_ratio,
            "visual_tokens": self.visual_tokens,
            "kept_tokens": self.kept_tokens,
            "prefill_ratio": round(self._median(lambda s, run: run.prefill_seconds / s.prefill_seconds), 4),
            "step_ratio": round(self._median(lambda stock, run: run.step_seconds / stock.step_seconds), 4),
            "kv_ratio": round(self._median(lambda stock, run: run.kv_bytes / stock.kv_bytes), 4),
            "peak_ratio": round(statistics.median(peaks), 4) if peaks else None,
            "step_extra_milliseconds": round(1e3 * extra, 3),
            "stock_prefill_milliseconds": round(
                1e3 * self._median(lambda stock, _: stock.prefill_seconds), 1
            ),
            "reduce_milliseconds": round(1e3 * self.reduce_seconds, 1),
        }


def llm_speeds(
    family: VideoFamily,
    recipes: Mapping[str, Recipe],
    *,
    keep_ratios: Sequence[float],
    tokens: int = 2048,
    repeats: int = 3,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[LLMSpeed]:
    """Time ``recipes`` on a made-up clip of about ``tokens`` visual tokens, in turn with the stock model.

    Stages before pre_llm are not carried out: they do not touch the language model. Stores alone have no
    share to keep and are timed once.

    Raises UsageError or UnsupportedModelError before anything is timed.
    """
    frames = max(1, round(tokens / _SIDE**2))
    width = int(family.text_config.hidden_size)
    features, signals = made_clip(min(_SCENES, frames), shape=(frames, _SIDE, _SIDE, width))
    at = features.to(family.device, family.model.dtype)
    seen = VisualTokens(at.flatten(0, 2), VideoGrid(frames, _SIDE, _SIDE), signals)
    asked = [
        (name, ratio, AnswerRequest((_QUESTION,), recipe.with_budget(ratio), max_new_tokens=_NEW_TOKENS))
        for name, recipe in recipes.items()
        for ratio in (keep_ratios if recipe.takes_budget else (1.0,))
    ]
    everything = run_reducer(AnswerRequest((_QUESTION,), Recipe.named("none")).method(), seen)
    stock = AnswerRequest((_QUESTION,), Recipe.named("none"))
    for done, (name, ratio, request) in enumerate(asked, 1):
        reduction, seconds = _reduce(request, seen)
        pairs = [
            (_timed(family, stock, everything), _timed(family, request, reduction))
            for _ in range(repeats + 1)  # the first to warm up
        ]
        if progress is not None:
            progress("bench", done, len(asked))
        yield LLMSpeed(name, ratio, len(seen), len(reduction), seconds, tuple(pairs[1:]))


def _reduce(request: AnswerRequest, tokens: VisualTokens) -> tuple[Reduction, float]:
    method = request.method()
    wait_for(tokens.features.device)
    started = time.perf_counter()
    reduction = run_reducer(method, tokens)
    wait_for(tokens.features.device)
    return reduction, time.perf_counter() - started


@torch.no_grad()
def _timed(family: VideoFamily, request: AnswerRequest, reduction: Reduction) -> Run:
    prompt: Prompt = family.prompt(_QUESTION, reduction)
    cache = answer_cache(family, request.cache_method(), prompt, reduction)
    peak = PeakMemory(family.device).start()
    with attach_to_prompt(family, request.in_llm(), prompt, reduction):
        out = generate(family, prompt, max_new_tokens=_NEW_TOKENS, cache=cache)
    steps = max(1, len(out.token_ids) - 1)
    most = peak.read() if family.device.type == "cuda" else None
    return Run(out.prefill_seconds, out.generate_seconds / steps, kv_bytes(out.cache), most)
