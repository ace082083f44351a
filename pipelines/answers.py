"""What comes back from a question: the answer, what it cost, and the same as a stream of text."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from streamprune.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What one answer took, in wall-clock milliseconds; stages that several answers share appear in each.

    Attributes:
        frames: frames of tokens that were encoded, each made of two pictures in some families.
        tokens_in: visual tokens before the reduction.
        tokens_kept: visual tokens that entered the language model.
        prompt_tokens: everything that entered it, with template, question and separators.
        new_tokens: tokens of the answer, the end token included.
        decode_ms: reading and decoding the frames, those that were only looked at to choose from included;
            likewise in the next two.
        preprocess_ms: resizing and normalising them.
        tower_share: share of the tokens, over all layers of the vision tower, that went through it; below 1
            with an encoder method.
        encode_ms: the vision tower, once more for signals that were computed after encoding.
        choose_ms: choosing frames, beyond decoding and encoding the candidates; 0 for most frame methods.
        reduce_ms: choosing and merging tokens, with the signals of the question that the method reads.
        prefill_ms: from the prompt to the first new token.
        generate_ms: from the first new token to the last.
        reduce_flops: operations of the language model for those signals, and for choosing frames by the
            question; 0 for most methods.
        prefill_flops: operations of the language model for the prompt, see ``metrics.flops``.
        decode_flops: operations of the language model for the answer.
        kv_bytes: storage behind the key-value cache after the answer; of answers given together a share.
        peak_bytes: most memory needed beyond what was held before, see ``metrics.memory.PeakMemory``.
        cache_ms: looking for the encoded video on disk, reading it or keeping it there; 0 without a cache.
    """

    frames: int
    tokens_in: int
    tokens_kept: int
    prompt_tokens: int
    new_tokens: int
    tower_share: float
    decode_ms: float
    preprocess_ms: float
    encode_ms: float
    choose_ms: float
    reduce_ms: float
    prefill_ms: float
    generate_ms: float
    reduce_flops: int
    prefill_flops: int
    decode_flops: int
    kv_bytes: int
    peak_bytes: int
    cache_ms: float = 0.0

    def to_dict(self) -> dict[str, int | float]:
        """Plain numbers by name, ready for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    Attributes:
        text: what the model said.
        question: what it was asked.
        stats: what it took.
        recipe: name of the recipe.
        pts_seconds: times of the frames of tokens it saw; of a stream the oldest moment that was remembered,
            and the newest.
        warnings: what the reader lost or had to guess, one sentence each.
    """

    text: str
    question: str
    stats: Stats
    recipe: str
    pts_seconds: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {
            **dataclasses.asdict(self),
            "pts_seconds": list(self.pts_seconds),
            "warnings": list(self.warnings),
        }


class _Exchange:
    """What the two sides share; the thread holds this and not the stream, so that one can be collected."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.cancelled = threading.Event()
        self.answer: Answer | None = None
        self.failure: BaseException | None = None


def _run(exchange: _Exchange, work: Callable[[Callable[[str], None], threading.Event], Answer]) -> None:
    try:
        exchange.answer = work(exchange.pieces.put, exchange.cancelled)
    except BaseException as error:  # handed to the consumer, who raises it
        exchange.failure = error
    exchange.pieces.put(None)


class AnswerStream(Iterator[str]):
    """Pieces of one answer as they come; joined they are the answer's text.

    The model works in a thread that starts with the first piece asked for. ``close`` (also on leaving a
    ``with`` block, on any exception while waiting, and when the stream is dropped) stops it after the
    current token.
    """

    def __init__(self, work: Callable[[Callable[[str], None], threading.Event], Answer]) -> None:
        self._exchange = _Exchange()
        # no daemon: one that is inside the model when the interpreter goes down can take it down hard
        self._thread = threading.Thread(target=_run, args=(self._exchange, work), name="streamprune-answer")
        self._started = False
        self._finished = False

    @property
    def answer(self) -> Answer:
        """The whole answer with its stats, once the last piece has been taken; cut short if closed early."""
        if self._exchange.answer is None:
            raise InvalidValueError(
                "the answer is complete only after the last piece; iterate to the end first"
            )
        return self._exchange.answer

    def __next__(self) -> str:
        if self._finished:
            raise StopIteration
        if not self._started:
            self._started = True
            self._thread.start()
        try:
            piece = self._exchange.pieces.get()
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        if piece is not None:
            return piece
        self.close()
        if self._exchange.failure is not None:
            failure, self._exchange.failure = self._exchange.failure, None
            raise failure
        raise StopIteration

    def close(self) -> None:
        """Stop answering and wait for the thread; closing twice is harmless."""
        self._finished = True
        self._exchange.cancelled.set()
        # a thread that another one is only just starting sees that it is not wanted, and ends by itself
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_started"):
            self.close()
