"""One request while it is worked on, in threads; what comes out is put where the event loop waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from streamprune.models.chat_template import text_ids
from streamprune.web.openai_media import Media
from streamprune.web.openai_request import ChatRequest
from streamprune.web.openai_videos import EncodedVideos, Look, StoppedError

if TYPE_CHECKING:
    from streamprune.pipelines.answers import Answer, AnswerStream
    from streamprune.pipelines.encoding import EncodedVideo
    from streamprune.pipelines.offline import VideoLLM


@dataclass(frozen=True)
class Told:
    """An answer that is complete.

    Attributes:
        answer: with its stats.
        cut_short: whether it came to the end of its room before it came to its own.
        from_cache: whether every video had been encoded for an earlier request.
        queue_ms: from the request until the model had time for it, downloads included.
    """

    answer: Answer
    cut_short: bool
    from_cache: bool
    queue_ms: float


# what is heard of a request: pieces of its answer, then all of it; or why there is none
Event: TypeAlias = "str | Told | BaseException"


class Work:
    """Answers one request.

    Args:
        chat: the request.
        look: how its videos are looked at.
        vlm: the model.
        videos: encodes them, or has them already.
    """

    def __init__(self, chat: ChatRequest, look: Look, vlm: VideoLLM, videos: EncodedVideos) -> None:
        self._chat = chat
        self._look = look
        self._vlm = vlm
        self._videos = videos
        self._since = time.perf_counter()
        self._stopped = threading.Event()
        self._stream: AnswerStream | None = None
        self._loop = asyncio.get_running_loop()
        self.events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Put ``event`` where it is waited for; from any thread."""
        self._loop.call_soon_threadsafe(self.events.put_nowait, event)

    def answer(self, media: list[Media]) -> None:
        """Encode and answer, telling every piece; never raises."""
        queue_ms = 1000 * (time.perf_counter() - self._since)
        try:
            if self._stopped.is_set():
                return
            question = self._chat.said.question
            encoded = [self._videos.encoded(one, self._look, question, self._stopped) for one in media]
            with self._asked(encoded) as stream:
                self._stream = stream
                for piece in stream:
                    # a stop that came before there was a stream to close
                    if self._stopped.is_set():
                        return
                    self.tell(piece)
                answer, cached = stream.answer, all(one.from_cache for one in encoded)
                self.tell(Told(answer, self._cut_short(answer), cached, queue_ms))
        except StoppedError:
            return
        except BaseException as error:  # handed to whoever waits
            self.tell(error)

    def stop(self) -> None:
        """End it after the current token, or batch of frames; waits for the former."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.close()

    def _cut_short(self, answer: Answer) -> bool:
        new = answer.stats.new_tokens
        # one that ends with the last token it may have says a token less: the end token is not text
        return new >= self._chat.max_new_tokens <= len(text_ids(self._vlm.family.tokenizer, answer.text))

    def _asked(self, encoded: list[EncodedVideo]) -> AnswerStream:
        from streamprune.pipelines.together import Videos

        chat, sampling = self._chat, self._chat.sampling
        settings: dict[str, Any] = {
            "recipe": self._look.recipe,
            "max_new_tokens": chat.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            "stop": sampling.stop,
        }
        if len(encoded) > 1:
            return self._vlm.ask(Videos(*encoded), chat.said.question, stream=True, **settings)
        # the whole conversation is computed for the last question, which therefore may choose the tokens
        talk = self._vlm.chat(encoded[0], decide="each", **settings)
        for question, answer in chat.said.turns:
            talk.recall(question, answer)
        return talk.ask(chat.said.question, stream=True)
