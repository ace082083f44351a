"""An answer over what a cache holds, a token at a time, giving way to frames that arrive between tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.cache.working import WorkingCache
from streamprune.models.generation import TextPieces
from streamprune.models.sampling import GREEDY, Sampling
from streamprune.models.stream_model import Chunk, StreamModel


@dataclass(frozen=True)
class StreamAnswer:
    """What came out.

    Attributes:
        token_ids: the new tokens, the end token included.
        text: what they say.
        prefill_seconds: from the call to the first new token.
        generate_seconds: from the first new token to the last.
    """

    token_ids: tuple[int, ...]
    text: str
    prefill_seconds: float
    generate_seconds: float


def answer(
    model: StreamModel,
    tail: Chunk,
    begin: Sequence[int],
    cache: WorkingCache,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    on_text: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> StreamAnswer:
    """Answer ``tail``, read after what ``cache`` holds, as ``generate`` would.

    The family's lock is held for one call of the model at a time.

    Args:
        begin: (axes,) where ``tail`` begins.
        cache: with room for ``tail`` and ``max_new_tokens`` more.
        on_text: called with every piece of the answer as it comes.
        stop: set it from another thread to end after the current token.
    """
    family = model.family
    ends = _ends(family)
    pieces = TextPieces(family.tokenizer, ends, sampling.stop)
    processors = _processors(sampling)
    started = time.perf_counter()
    first_token = started
    ids = tail.ids[None]
    chunk, place = tail, tuple(begin)
    for number in range(max_new_tokens):
        with family.lock:
            reading = model.read(chunk, place, cache)
        scores = reading.logits[None]
        for processor in processors:
            scores = processor(ids, scores)
        token = int(scores.argmax(-1))
        if number == 0:
            first_token = time.perf_counter()
        _say(on_text, pieces.add([token]))
        # at the end of the program its other threads are waited for: do not make it wait for an answer
        left = stop is not None and (stop.is_set() or not threading.main_thread().is_alive())
        if left or pieces.ended:
            break
        ids = torch.cat([ids, ids.new_tensor([[token]])], 1)
        place = tuple((reading.places[:, -1] + 1).tolist())
        chunk = model.text([token], len(place))
    _say(on_text, pieces.finish())
    ended = time.perf_counter()
    return StreamAnswer(pieces.token_ids, pieces.text, first_token - started, ended - first_token)


def _say(on_text: Callable[[str], None] | None, piece: str) -> None:
    if piece and on_text is not None:
        on_text(piece)


def _ends(family: Any) -> Collection[int]:
    """Tokens with which the model ends an answer."""
    found = family.model.generation_config.eos_token_id
    found = family.tokenizer.eos_token_id if found is None else found
    return found if isinstance(found, list) else [found]


def _processors(sampling: Sampling) -> list[Any]:
    """What is done to the likelihoods of words, in the order of ``generate``."""
    from transformers import RepetitionPenaltyLogitsProcessor

    penalty = sampling.repetition_penalty
    first = [] if penalty is None else [RepetitionPenaltyLogitsProcessor(penalty=float(penalty))]
    return [*first, *sampling.processors(1)]
