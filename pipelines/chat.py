"""Several questions about one video, each in the light of what was said before.

chat = vlm.chat("talk.mp4", recipe="fastvid", keep_ratio=0.1)
chat.ask("Who opens the door?")
chat.ask("And what does she carry?")
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, overload

from streamprune.errors import ContextLengthError, InvalidTypeError, UnknownNameError
from streamprune.metrics.memory import PeakMemory
from streamprune.models.attach import attach, attach_to_prompt
from streamprune.models.base import Prompt
from streamprune.models.chat_template import check_question
from streamprune.models.generation import Generation, generate
from streamprune.pipelines.answer_cache import answer_cache
from streamprune.pipelines.answers import Answer, AnswerStream, Stats
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.job import Job, Reduced, stats_of

Decide = Literal["first", "each"]


@dataclass(frozen=True)
class _Talk:
    """A conversation up to its last answer.

    Attributes:
        question: the first one.
        reduced: what is left of the video.
        prompt: what the first question was answered from.
        said: ids behind it: answers, and the questions after the first.
        cache: of the model; None has it computed anew.
    """

    question: str
    reduced: Reduced
    prompt: Prompt
    said: tuple[int, ...] = ()
    cache: Any = None


class Chat:
    """A conversation about one video, which is encoded and reduced once.

    What the model has computed for earlier turns stays in its key-value cache and is not computed again: an
    answer is the one that the whole conversation would get at once. Earlier answers are part of it as the
    tokens that were generated, so also where they were cut short. A turn that fails leaves the conversation
    as it was. Threads may share a chat and take turns.

    Args:
        asking: how the questions are answered.
        video: as for ``ask``. Its frames, if the question chooses them, are those of the first question.
        decide: for methods that read the question, "first" keeps the tokens that the first question chose;
            "each" lets every question choose, and computes the whole conversation anew for it.
    """

    def __init__(self, asking: Asking, video: Any, decide: Decide = "first") -> None:
        if decide not in get_args(Decide):
            raise UnknownNameError.among("decide", decide, get_args(Decide))
        self._asking = asking
        self._video = video
        self._decides_each = decide == "each" and bool(asking.request.question_needs())
        self._lock = threading.RLock()
        self._talk: _Talk | None = None
        self._answers: tuple[Answer, ...] = ()
        # any question will do where frames are not chosen by it
        self._job: Job | None = None if asking.frames.reads_question else asking.prepare(video, "?")

    def __repr__(self) -> str:
        name = "not encoded yet" if self._job is None else repr(self._job.video.source)
        return f"Chat({name}, {len(self._answers)} turns)"

    @property
    def history(self) -> tuple[Answer, ...]:
        """Questions and answers so far."""
        return self._answers

    def reset(self) -> None:
        """Begin a new conversation about the same video, which stays encoded."""
        with self._lock:
            self._talk, self._answers = None, ()

    @overload
    def ask(self, question: str, *, stream: Literal[True]) -> AnswerStream: ...
    @overload
    def ask(self, question: str, *, stream: Literal[False] = False) -> Answer: ...

    def ask(self, question: str, *, stream: bool = False) -> Answer | AnswerStream:
        """Answer the next question; its stats count the tokens that came with it, and the video's as ever.

        Args:
            stream: return an AnswerStream of text pieces. The turn takes place when they are read; closing
                the stream early ends the answer there.

        Raises what ``vlm.ask`` raises; ContextLengthError says when the conversation has become too long.
        """
        check_question(question)
        if stream:
            return AnswerStream(lambda say, stop: self._turn(question, say, stop))
        return self._turn(question)

    def recall(self, question: str, answer: str) -> None:
        """Take in a turn that took place elsewhere: the next question is asked as if it had been said here.

        It becomes part of the conversation as text, not as the tokens of an answer; :attr:`history` holds
        only what was answered here, and the next question computes the conversation anew.
        """
        check_question(question)
        if not isinstance(answer, str):
            raise InvalidTypeError(f"answer must be text, got {type(answer).__name__}")
        with self._lock:
            job, before, family = self._encoded(question), self._talk, self._asking.family
            said = tuple(family.given_answer_ids(answer))
            if before is None:
                self._talk = replace(self._begun(job, question), said=said)
            else:
                said = (*before.said, *family.next_turn_ids(question), *said)
                self._talk = replace(before, said=said, cache=None)

    def _turn(
        self,
        question: str,
        say: Callable[[str], None] | None = None,
        stop: threading.Event | None = None,
    ) -> Answer:
        with self._lock:
            job = self._encoded(question)
            before = self._talk
            talk = self._begun(job, question) if before is None else self._went_on(before, job, question)
            prompt = talk.prompt.followed_by(talk.said)
            if before is not None:
                self._check_room(prompt)
                # what fails half-way would leave a cache that nobody can go on with
                self._talk = replace(before, cache=None)
            out, stats = self._generate(job, talk, prompt, say, stop)
            answer = self._asking.told(job, question, out.text, stats)
            self._talk = replace(talk, said=talk.said + out.said, cache=out.cache)
            self._answers = (*self._answers, answer)
            return answer

    def _encoded(self, question: str) -> Job:
        """The video; what memory later turns need is counted from their own beginning."""
        if self._job is None:
            self._job = self._asking.prepare(self._video, question)
        elif self._answers:
            self._job = replace(self._job, peak=PeakMemory(self._asking.family.device).start())
        return self._job

    def _begun(self, job: Job, question: str) -> _Talk:
        reduced = self._asking.reduce(job, question)
        return _Talk(question, reduced, self._asking.prompt(job, question, reduced))

    def _went_on(self, talk: _Talk, job: Job, question: str) -> _Talk:
        said = (*talk.said, *self._asking.family.next_turn_ids(question))
        if not self._decides_each:
            return replace(talk, said=said)
        reduced = self._asking.reduce(job, question)
        prompt = self._asking.prompt(job, talk.question, reduced)
        return _Talk(talk.question, reduced, prompt, said)

    def _check_room(self, prompt: Prompt) -> None:
        family, new = self._asking.family, self._asking.request.max_new_tokens
        over = max(len(prompt), prompt.reach) + new - family.context_tokens
        if over > 0:
            raise ContextLengthError(
                f"the conversation of {len(prompt)} tokens, at positions below {prompt.reach}, and {new} new "
                f"ones are {over} more than the model's context of {family.context_tokens}; begin anew with "
                "chat.reset(), or chat about fewer frames (num_frames=) or with fewer max_new_tokens"
            )

    def _generate(
        self,
        job: Job,
        talk: _Talk,
        prompt: Prompt,
        say: Callable[[str], None] | None,
        stop: threading.Event | None,
    ) -> tuple[Generation, Stats]:
        """Answer ``prompt``, of which the cache of ``talk`` knows the beginning."""
        asking, cache = self._asking, talk.cache
        family, request = asking.family, asking.request
        cached, held = 0, [0] * asking.shape.layers
        if cache is None:
            cache = answer_cache(family, request.cache_method(), talk.prompt, talk.reduced.reduction)
        else:
            cached, held = cache.get_seq_length(), _entries(cache, len(held))
        with self._inside(talk, prompt) as layers:
            out = generate(
                family,
                prompt,
                max_new_tokens=request.max_new_tokens,
                sampling=request.sampling,
                on_text=say,
                stop=stop,
                cache=cache,
                cached=cached,
            )
        new = len(prompt) - cached
        stats = stats_of(asking.shape, job, talk.reduced, new, out, layers.tokens(new), held)
        return out, stats

    @contextmanager
    def _inside(self, talk: _Talk, prompt: Prompt) -> Iterator[Any]:
        """Let the in-LLM method act: on the whole prompt, or on what a cache holds of it."""
        family, method = self._asking.family, self._asking.request.in_llm()
        if method is None or talk.cache is None:
            with attach_to_prompt(family, method, prompt, talk.reduced.reduction) as layers:
                yield layers
            return
        with family.lock, attach(family.model, method, lambda ids: [None] * len(ids)) as layers:
            yield layers


def _entries(cache: Any, layers: int) -> list[int]:
    """Entries that each of the model's ``layers`` has in ``cache``."""
    found = [
        int(cache.get_mask_sizes(0, number)[0]) if hasattr(layer, "keys") else 0
        for number, layer in enumerate(cache.layers)
    ]
    return [*found, *[0] * layers][:layers]
