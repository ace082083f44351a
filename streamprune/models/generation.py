"""Greedy answers through the stock ``generate``, with times, text as it comes, and a way to stop it.

Knows prompts and tokens; knows nothing about videos or methods.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from streamprune.errors import ContextLengthError
from streamprune.models.base import Prompt, VideoFamily
from streamprune.models.devices import out_of_memory_explained

if TYPE_CHECKING:
    from streamprune.cache.kept import KeptCache

# what a decoder prints for a character whose bytes have not all come yet
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Generation:
    """What came out of one prompt.

    Attributes:
        token_ids: the new tokens, the end token included.
        text: what they say.
        prefill_seconds: from the call to the first new token.
        generate_seconds: from the first new token to the last.
        cache: the model's key-value cache afterwards.
    """

    token_ids: tuple[int, ...]
    text: str
    prefill_seconds: float
    generate_seconds: float
    cache: Any = field(repr=False)


class TextPieces:
    """Turn tokens into pieces of text whose concatenation is the whole answer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._token_ids: list[int] = []
        self._said = ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every token so far."""
        return tuple(self._token_ids)

    @property
    def text(self) -> str:
        """All tokens so far as text, without special tokens and outer white space."""
        decoded: str = self._tokenizer.decode(
            self._token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return decoded.strip()

    def add(self, token_ids: list[int]) -> str:
        """Take new tokens and return what can be said because of them, maybe nothing yet."""
        self._token_ids += token_ids
        text = self.text
        if text.endswith(_INCOMPLETE) or not text.startswith(self._said):
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """Return what was held back."""
        return self._advance(self.text)

    def _advance(self, text: str) -> str:
        piece = text[len(self._said) :]
        self._said = text
        return piece


class _Listener:
    """What ``generate`` calls with the prompt and then with every new token."""

    def __init__(self, pieces: TextPieces, on_text: Callable[[str], None] | None) -> None:
        self.pieces = pieces
        self.first_token_seconds: float | None = None
        self._on_text = on_text
        self._prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        if self.first_token_seconds is None:
            self.first_token_seconds = time.perf_counter()
        self._say(self.pieces.add(value.reshape(-1).tolist()))

    def end(self) -> None:
        self._say(self.pieces.finish())

    def _say(self, piece: str) -> None:
        if piece and self._on_text is not None:
            self._on_text(piece)


def check_context(
    family: VideoFamily, prompt_tokens: int, max_new_tokens: int, full_tokens: int | None = None
) -> None:
    """Raise ContextLengthError when prompt and answer do not fit the model, by tokens or by positions.

    Args:
        prompt_tokens: tokens that enter the language model.
        full_tokens: length with every visual token, where original positions are kept; None when renumbered.
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
            f"{room}; use fewer frames (num_frames=), or positions='renumber'"
        )


def generate(
    family: VideoFamily,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    on_text: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    cache: KeptCache | None = None,
) -> Generation:
    """Answer ``prompt`` greedily, exactly as ``model.generate`` would.

    Args:
        max_new_tokens: at most this many; the model may end earlier.
        on_text: called with every piece of the answer as it comes.
        stop: set it from another thread to end after the current token.
        cache: an empty cache to use in place of the stock one.

    Raises DeviceError when memory runs out.
    """
    pieces = TextPieces(family.tokenizer)
    listener = _Listener(pieces, on_text)

    def stopped(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        # at the end of the program its other threads are waited for: do not make it wait for an answer
        now = stop is not None and (stop.is_set() or not threading.main_thread().is_alive())
        return torch.full((len(input_ids),), now, dtype=torch.bool, device=input_ids.device)

    inputs = prompt.model_inputs()
    told = nullcontext() if cache is None else cache.watch(family.model)
    if cache is not None:
        inputs["past_key_values"] = cache
    with family.lock, out_of_memory_explained(f"a prompt of {len(prompt)} tokens"), told:
        started = time.perf_counter()
        output = family.model.generate(
            **inputs,
            generation_config=_greedy(family, max_new_tokens),
            streamer=listener,
            stopping_criteria=[stopped],
        )
        ended = time.perf_counter()
    first = listener.first_token_seconds if listener.first_token_seconds is not None else ended
    return Generation(pieces.token_ids, pieces.text, first - started, ended - first, output.past_key_values)


def _greedy(family: VideoFamily, max_new_tokens: int) -> Any:
    """The model's own generation settings, with sampling switched off."""
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
    if config.eos_token_id is None:
        config.eos_token_id = family.tokenizer.eos_token_id
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    return config
