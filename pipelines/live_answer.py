"""Answers from what a stream remembers: each from a copy, so that none leaves a trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from streamprune.cache.working import WorkingCache
from streamprune.errors import InvalidValueError, StreamClosedError
from streamprune.metrics.flops import DecoderShape
from streamprune.metrics.memory import PeakMemory, kv_bytes
from streamprune.models.devices import out_of_memory_explained
from streamprune.models.stream_answer import StreamAnswer
from streamprune.models.stream_answer import answer as answer_tokens
from streamprune.models.stream_model import Chunk
from streamprune.pipelines.answers import Answer, Stats
from streamprune.pipelines.live_dialogue import Dialogue, dialogue_tail
from streamprune.pipelines.live_ingest import Ingest
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_plan import Plan
from streamprune.pipelines.live_question import Question
from streamprune.pipelines.live_recall import Recalled, recall

# how often an answer that waits for its turn looks whether it is still wanted
_PATIENCE_SECONDS = 0.05


class Answering:
    """Answers questions about one stream, from any thread, as many at once as there are working copies.

    Args:
        ingest: holds what is remembered.
        plan: how large the working copies are.
        options: of the stream.
        dialogue: what was said before.
    """

    def __init__(self, ingest: Ingest, plan: Plan, options: StreamOptions, dialogue: Dialogue) -> None:
        self._ingest, self._plan = ingest, plan
        self._options, self._dialogue = options, dialogue
        self._copies = threading.Semaphore(options.answers_at_once)
        self._changed = threading.Condition()
        self._under_way: list[threading.Event] = []
        self._ended = False

    def end(self) -> None:
        """End all answers, and wait until they are over; no other begins."""
        with self._changed:
            self._ended = True
            for stop in self._under_way:
                stop.set()
            while self._under_way:
                self._changed.wait()

    @contextmanager
    def _entered(self, stop: threading.Event) -> Iterator[None]:
        with self._changed:
            if self._ended:
                raise StreamClosedError("the stream was closed, or began anew, before the answer")
            self._under_way.append(stop)
        try:
            yield
        finally:
            with self._changed:
                self._under_way.remove(stop)
                self._changed.notify_all()

    def answer(
        self,
        question: Question,
        say: Callable[[str], None] | None,
        stop: threading.Event,
    ) -> Answer:
        """Answer from what the stream remembers when the answer's turn has come.

        Args:
            say: called with every piece of text.
            stop: ends the answer after the current token; one that has not begun stays empty.
        """
        ingest = self._ingest
        peak = PeakMemory(ingest.family.device).start()
        tail = self._tail(question)
        with self._entered(stop), self._turn(stop) as is_wanted:
            if not is_wanted:
                return self._told(question, "", _NOTHING)
            with (
                out_of_memory_explained("an answer about the stream"),
                WorkingCache(self._plan.room.shape, self._plan.answer_tokens, ingest.ledger) as cache,
            ):
                asks = "question_queries" in self._options.memory.wants
                recalled = recall(ingest, tail, cache, stop, asks=asks)
                said = answer_tokens(
                    ingest.model,
                    tail,
                    ingest.model.tail_place(ingest.grid, recalled.end),
                    cache,
                    max_new_tokens=question.max_new_tokens,
                    sampling=question.sampling,
                    on_text=say,
                    stop=stop,
                )
                stats = self._stats(recalled, len(tail), said, kv_bytes(cache))
        if question.remember:
            self._dialogue.add(question.text, said.text)
        stats = replace(stats, peak_bytes=peak.read())
        return self._told(question, said.text, stats, recalled.seconds)

    def _tail(self, question: Question) -> Chunk:
        """What stands behind the frames: the dialogue as far as there is room, and the question."""
        model, grid = self._ingest.model, self._ingest.grid
        room = self._options.answer_tokens - question.max_new_tokens
        turns = self._dialogue.turns()
        for first in range(len(turns) + 1):
            tail = dialogue_tail(model, grid, turns[first:], question.text)
            if len(tail) <= room:
                return tail
        raise InvalidValueError(
            f"a question of {len(tail)} tokens and max_new_tokens={question.max_new_tokens} are more than "
            f"answer_tokens={self._options.answer_tokens}, which were set aside for both; open the stream "
            "with more answer_tokens, or ask for less"
        )

    @contextmanager
    def _turn(self, stop: threading.Event) -> Iterator[bool]:
        """Wait for a working copy; False when nobody waits for the answer any more."""
        while not self._copies.acquire(timeout=_PATIENCE_SECONDS):
            if stop.is_set():
                yield False
                return
        try:
            yield not stop.is_set()
        finally:
            self._copies.release()

    def _stats(self, recalled: Recalled, tail_tokens: int, said: StreamAnswer, held_bytes: int) -> Stats:
        shape = DecoderShape.from_config(self._ingest.family.text_config)
        new = len(said.token_ids)
        held = [recalled.tokens] * shape.layers
        seen = [recalled.tokens + tail_tokens] * shape.layers
        return replace(
            _NOTHING,
            frames=recalled.frames,
            tokens_in=recalled.frames * self._ingest.grid.tokens_per_frame,
            tokens_kept=recalled.tokens - self._plan.head_tokens,
            prompt_tokens=tail_tokens + recalled.read_tokens,
            new_tokens=new,
            reduce_ms=recalled.ms,
            prefill_ms=1000 * said.prefill_seconds,
            generate_ms=1000 * said.generate_seconds,
            reduce_flops=shape.prefill_flops(recalled.read_tokens) if recalled.read_tokens else 0,
            prefill_flops=shape.prefill_flops([tail_tokens] * shape.layers, held),
            decode_flops=shape.decode_flops(seen, new),
            kv_bytes=held_bytes,
        )

    def _told(self, question: Question, text: str, stats: Stats, seconds: tuple[float, ...] = ()) -> Answer:
        recipe = self._options.recipe.name
        return Answer(text=text, question=question.text, stats=stats, recipe=recipe, pts_seconds=seconds)


# of an answer for which nothing was done
_NOTHING = Stats(
    frames=0,
    tokens_in=0,
    tokens_kept=0,
    prompt_tokens=0,
    new_tokens=0,
    tower_share=1.0,
    decode_ms=0.0,
    preprocess_ms=0.0,
    encode_ms=0.0,
    choose_ms=0.0,
    reduce_ms=0.0,
    prefill_ms=0.0,
    generate_ms=0.0,
    reduce_flops=0,
    prefill_flops=0,
    decode_flops=0,
    kv_bytes=0,
    peak_bytes=0,
)
