"""Answers through the stock ``generate``, with times, text as it comes, and a way to stop it.

Knows prompts and tokens; knows nothing about videos or methods.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch

from streamprune.errors import ContextLengthError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.devices import out_of_memory_explained
from streamprune.models.prompt_batch import joined_inputs
from streamprune.models.sampling import GREEDY, Sampling

# what a decoder prints for a character whose bytes have not all come yet
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Generation:
    """What came out of one prompt.

    Attributes:
        token_ids: the new tokens, the end token included.
        said: without the end token.
        text: what they say.
        prefill_seconds: from the call to the first new token.
        generate_seconds: from the first new token to the last.
        cache: the model's key-value cache afterwards.
    """

    token_ids: tuple[int, ...]
    said: tuple[int, ...]
    text: str
    prefill_seconds: float
    generate_seconds: float
    cache: Any = field(repr=False)


class TextPieces:
    """Turn the tokens of one answer into pieces of text whose concatenation is the whole answer.

    Args:
        ends: tokens with which the answer ends.
        stop: texts at which it ends; they and what comes behind them are not said.
    """

    def __init__(self, tokenizer: Any, ends: Collection[int] = (), stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)
        self._stop = tuple(stop)
        self._token_ids: list[int] = []
        self._said = ""
        self._raw = ""
        self.ended = False

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every token so far."""
        return tuple(self._token_ids)

    @property
    def said(self) -> tuple[int, ...]:
        """Without the end token."""
        last = self._token_ids[-1:]
        return self.token_ids[: len(self._token_ids) - len(self._ends.intersection(last))]

    @property
    def text(self) -> str:
        """All tokens so far as text, without special tokens and outer white space."""
        return self._raw.strip()

    def add(self, token_ids: list[int]) -> str:
        """Take new tokens and return what can be said because of them, maybe nothing yet."""
        self._token_ids += token_ids
        raw: str = self._tokenizer.decode(
            self._token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        found = [place for place in map(raw.find, self._stop) if place >= 0]
        self._raw = raw[: min(found)] if found else raw
        self.ended = bool(found) or not self._ends.isdisjoint(token_ids)
        held_back = 0 if found else self._maybe_stop()
        text = self._raw[: len(self._raw) - held_back].strip()
        if text.endswith(_INCOMPLETE) or not text.startswith(self._said):
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """Return what was held back."""
        return self._advance(self.text)

    def _maybe_stop(self) -> int:
        """Characters at the end that may become one of the texts to stop at."""
        return max(
            (
                length
                for text in self._stop
                for length in range(1, len(text))
                if self._raw.endswith(text[:length])
            ),
            default=0,
        )

    def _advance(self, text: str) -> str:
        piece = text[len(self._said) :]
        self._said = text
        return piece


class _Listener:
    """Hears every new token, and says which answers have ended; for ``generate`` a stopping criterion."""

    def __init__(
        self,
        answers: Sequence[TextPieces],
        on_text: Callable[[str], None] | None,
        stop: threading.Event | None,
        on_token: Callable[[], None] | None = None,
    ) -> None:
        self.first_token_seconds: float | None = None
        self._on_token = on_token
        self._answers = answers
        self._on_text = on_text
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        newest = input_ids[:, -1].tolist()
        if self.first_token_seconds is None:
            self.first_token_seconds = time.perf_counter()
        if self._on_token is not None:
            self._on_token()
        for answer, token in zip(self._answers, newest, strict=True):
            if not answer.ended:  # of a batch the others may go on
                self._say(answer.add([token]))
        # at the end of the program its other threads are waited for: do not make it wait for an answer
        now = self._stop is not None and (self._stop.is_set() or not threading.main_thread().is_alive())
        ended = [now or answer.ended for answer in self._answers]
        return torch.tensor(ended, device=input_ids.device)

    def finish(self) -> None:
        """Say what was held back."""
        for answer in self._answers:
            self._say(answer.finish())

    def _say(self, piece: str) -> None:
        if piece and self._on_text is not None:
            self._on_text(piece)


def check_context(
    family: VideoFamily, prompt_tokens: int, max_new_tokens: int, full_tokens: int | None = None
) -> None:
    """Raise ContextLengthError when prompt and answer do not fit the model, by tokens or by positions.

    Args:
        prompt_tokens: tokens that enter the language model.
        full_tokens: positions that the prompt takes, the gaps between them included; None when not known.
    """
    room = family.context_tokens
    needed = prompt_tokens + max_new_tokens
    if needed > room:
        raise ContextLengthError(
            f"the prompt of {prompt_tokens} tokens and {max_new_tokens} new ones are {needed - room} more "
            f"than the model's context of {room}; use fewer frames (num_frames=), a smaller keep_ratio, or "
            "fewer max_new_tokens"
        )
    if full_tokens is not None and full_tokens + max_new_tokens > room:
        over = full_tokens + max_new_tokens - room
        raise ContextLengthError(
            f"the kept tokens fit, but their original positions reach {over} beyond the model's context of "
            f"{room}; use fewer frames (num_frames=), or positions='renumber' or 'clipped'"
        )


def generate(
    family: VideoFamily,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    on_text: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    cache: Any = None,
    cached: int = 0,
    on_token: Callable[[], None] | None = None,
) -> Generation:
    """Answer ``prompt``, by default exactly as ``model.generate`` would without sampling.

    Args:
        max_new_tokens: at most this many; the model may end earlier.
        on_text: called with every piece of the answer as it comes.
        stop: set it from another thread to end after the current token.
        cache: to use in place of a stock one of its own.
        cached: tokens of ``prompt`` that ``cache`` has seen.
        on_token: called as soon as a new token is there, of a batch one of each answer.

    Raises DeviceError when memory runs out.
    """
    inputs = prompt.model_inputs(cached)
    if cache is not None:
        inputs["past_key_values"] = cache
    return _generate(family, inputs, max_new_tokens, sampling, on_text, stop, on_token)[0]


def generate_batch(
    family: VideoFamily,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    on_token: Callable[[], None] | None = None,
) -> list[Generation]:
    """Answer several prompts together, each as :func:`generate` would; times and cache are those of all."""
    return _generate(family, joined_inputs(prompts), max_new_tokens, sampling, on_token=on_token)


def _generate(
    family: VideoFamily,
    inputs: dict[str, Any],
    max_new_tokens: int,
    sampling: Sampling,
    on_text: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    on_token: Callable[[], None] | None = None,
) -> list[Generation]:
    """One answer for each row of ``inputs``."""
    from streamprune.cache.kept import KeptCache

    rows, length = inputs["input_ids"].shape
    config = _settings(family, max_new_tokens, sampling)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    answers = [TextPieces(family.tokenizer, ends, sampling.stop) for _ in range(rows)]
    listener = _Listener(answers, on_text, stop, on_token)
    cache = inputs.get("past_key_values")
    told = cache.watch(family.model) if isinstance(cache, KeptCache) else nullcontext()
    with family.lock, out_of_memory_explained(f"a prompt of {length} tokens"), told:
        started = time.perf_counter()
        output = family.model.generate(
            **inputs,
            generation_config=config,
            logits_processor=sampling.processors(rows),
            stopping_criteria=[listener],
        )
        ended = time.perf_counter()
    listener.finish()
    first = listener.first_token_seconds if listener.first_token_seconds is not None else ended
    return [
        Generation(one.token_ids, one.said, one.text, first - started, ended - first, output.past_key_values)
        for one in answers
    ]


def _settings(family: VideoFamily, max_new_tokens: int, sampling: Sampling) -> Any:
    """The model's own generation settings; words are drawn, if at all, by ``sampling``'s processors."""
    config = deepcopy(family.model.generation_config)
    config.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        max_length=None,
        use_cache=True,
        return_dict_in_generate=True,
    )
    if sampling.repetition_penalty is not None:
        config.repetition_penalty = float(sampling.repetition_penalty)
    if config.eos_token_id is None:
        config.eos_token_id = family.tokenizer.eos_token_id
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    return config
