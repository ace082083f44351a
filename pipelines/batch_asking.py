"""A loaded model that answers groups of questions, and says which failed instead of failing with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from streamprune.errors import (
    ContextLengthError,
    DeviceError,
    InvalidValueError,
    SourceError,
    StreampruneError,
)
from streamprune.pipelines.answers import Answer
from streamprune.pipelines.asking import Asking
from streamprune.pipelines.batch_settings import Asked, BatchSettings, Group
from streamprune.pipelines.encoding import EncodedVideo, Encoding
from streamprune.pipelines.frame_request import FrameRequest
from streamprune.pipelines.offline import load
from streamprune.pipelines.request import read_encoder
from streamprune.pipelines.several import ask_several
from streamprune.pipelines.stored_encoding import EncodingCache
from streamprune.readers import open_source

# what one video or question can bring about; anything else would go wrong with all of them
_ONE_FAILED = (SourceError, ContextLengthError, DeviceError, InvalidValueError)

# figures of an answer that are the same whenever and wherever it is given
_FIGURES = ("frames", "tokens_in", "tokens_kept", "prompt_tokens", "new_tokens")


@dataclass
class Ready:
    """A group whose video was encoded, or could not be.

    Attributes:
        model_seconds: in the model so far, for this group; questions answered side by side share theirs.
    """

    group: Group
    video: EncodedVideo | None
    problem: str = ""
    model_seconds: float = 0.0

    @property
    def decode_seconds(self) -> float:
        """Fetching its frames."""
        return 0.0 if self.video is None else self.video.decode_ms / 1000


class GroupAsker:
    """Loads the model of ``settings``; two threads may :meth:`encode` and :meth:`answer` beside each other.

    Args:
        decode_threads: threads that decode a file; None leaves it to the reader. Files that are looked for
            in a cache are decoded as the reader likes.

    What is wrong with a video or a question becomes the ``error`` of its rows. Raises StreampruneError for
    what would be wrong with every one of them.
    """

    def __init__(self, settings: BatchSettings, decode_threads: int | None = None) -> None:
        self._vlm = load(settings.model, device=settings.device, dtype=settings.dtype)
        self._settings = settings
        self._needs = settings.request(("?",)).needs()
        self._decode_threads = decode_threads
        folder = settings.cache_folder
        self._cache = None if folder is None else EncodingCache.at(folder, settings.cache_bytes)

    def encode(self, group: Group) -> Ready:
        """Decode and encode the video of ``group``."""
        looks = self._settings.looks(group.start_seconds, group.end_seconds)
        asked = group.questions[0].prompt if looks.reads_question else None
        how: dict[str, Any] = {**looks.given, "question": asked, "signals": self._needs}
        try:
            if self._cache is not None:
                backend = self._settings.backend
                video = self._vlm.encode(group.video, backend=backend, cache=self._cache, **how)
            else:
                with self._opened(group.video) as source:
                    video = self._vlm.encode(source, **how)
        except _ONE_FAILED as error:
            return Ready(group, None, _told(error))
        return Ready(group, video, "", (video.preprocess_ms + video.encode_ms + video.choose_ms) / 1000)

    def _opened(self, video: str) -> Any:
        return open_source(video, backend=self._settings.backend, decode_threads=self._decode_threads)

    def answer(self, several: Sequence[Ready]) -> Iterator[dict[str, Any]]:
        """A row for every question of ``several`` groups: its id, and its text and figures or an error."""
        for ready in several:
            if ready.video is None:
                yield from ({"id": asked.id, "error": ready.problem} for asked in ready.group.questions)
        there = [ready for ready in several if ready.video is not None]
        if self._settings.videos_per_batch == 1:
            for ready in there:
                yield from self._one_after_another(ready)
            return
        at_once = self._settings.videos_per_batch
        rows = [(ready, asked) for ready in there for asked in ready.group.questions]
        for start in range(0, len(rows), at_once):
            yield from self._side_by_side(rows[start : start + at_once])

    def _asking(self, prompts: tuple[str, ...]) -> Asking:
        family = self._vlm.family
        recipe, backend = self._settings.recipe, self._settings.backend
        how = Encoding(backend, family.frames_per_batch, encoder=read_encoder(recipe))
        return Asking(family, self._settings.request(prompts), FrameRequest(recipe), how)

    def _one_after_another(self, ready: Ready) -> Iterator[dict[str, Any]]:
        """The video is reduced once, unless the question has a say in it."""
        reduced = None
        for asked in ready.group.questions:
            try:
                asking = self._asking((asked.prompt,))
                job = asking.prepare(ready.video, asked.prompt)
                if reduced is None or asking.each_reduces:
                    reduced = asking.reduce(job, asked.prompt)
                    ready.model_seconds += reduced.ms / 1000
                answer = asking.answer(job, asked.prompt, reduced)
            except _ONE_FAILED as error:
                yield {"id": asked.id, "error": _told(error)}
                continue
            ready.model_seconds += (answer.stats.prefill_ms + answer.stats.generate_ms) / 1000
            yield _row(asked, answer)

    def _side_by_side(self, rows: Sequence[tuple[Ready, Asked]]) -> Iterator[dict[str, Any]]:
        """Answers that go through the language model together; one by one where that cannot be done."""
        asking = self._asking(tuple(asked.prompt for _, asked in rows))
        try:
            answers = ask_several(asking, [ready.video for ready, _ in rows], False, len(rows))
        except _ONE_FAILED as error:
            if len(rows) == 1:
                yield {"id": rows[0][1].id, "error": _told(error)}
                return
            for row in rows:
                yield from self._side_by_side([row])
            return
        for (ready, asked), answer in zip(rows, answers, strict=True):
            together_ms = answer.stats.prefill_ms + answer.stats.generate_ms
            ready.model_seconds += (answer.stats.reduce_ms + together_ms / len(rows)) / 1000
            yield _row(asked, answer)


def _row(asked: Asked, answer: Answer) -> dict[str, Any]:
    stats = answer.stats.to_dict()
    warnings = {"warnings": list(answer.warnings)} if answer.warnings else {}
    figures = {name: stats[name] for name in _FIGURES}
    return {"id": asked.id, "text": answer.text, "recipe": answer.recipe, **figures, **warnings}


def _told(error: StreampruneError) -> str:
    return str(error) or type(error).__name__
