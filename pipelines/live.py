"""A stream that is watched: frames go in, questions are answered at any moment, memory stays within a budget.

with vlm.open_stream(memory_bytes="256MB", fps=2) as live:
    live.push_from("rtsp://camera.local/stream")
    print(live.ask("What changed?"))
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, overload

import torch

from streamprune.cache.ledger import Ledger
from streamprune.errors import InvalidValueError, StreamClosedError
from streamprune.models.base import VideoFamily
from streamprune.pipelines.answers import Answer, AnswerStream
from streamprune.pipelines.live_clock import StreamClock
from streamprune.pipelines.live_describe import described
from streamprune.pipelines.live_dialogue import Dialogue
from streamprune.pipelines.live_feed import Feed
from streamprune.pipelines.live_opening import Parts, clip_of, open_parts
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_picture import Picture, read_picture
from streamprune.pipelines.live_question import Question, read_question
from streamprune.pipelines.live_stats import LiveStats, Pushed, Tally
from streamprune.pipelines.live_watch import Alert, Watch, WatchOptions, begins_with_yes
from streamprune.pipelines.live_workers import Workers
from streamprune.readers import Frame
from streamprune.readers.base import check_fps
from streamprune.readers.live_options import DropPolicy

CORRUPT = "damaged"

# their threads are ended before the interpreter goes down, as if they had been closed
_open_streams: weakref.WeakSet[LiveStream] = weakref.WeakSet()


class LiveStream:
    """What a model has seen of one stream; made by ``vlm.open_stream``. Close it, or use it in a ``with``.

    Every method may be called from any thread. Frames are taken in one after the other; questions are
    answered from copies, meanwhile, and leave no trace.
    """

    def __init__(self, family: VideoFamily, options: StreamOptions) -> None:
        self.family, self.options = family, options
        self._ledger = Ledger(options.memory_bytes)
        self._order = threading.Lock()  # of frames, and of what must not come between two of them
        self._closed = False
        self._workers = Workers(self._push_from, self._ledger, options.for_frames)
        self._dialogue = Dialogue(self._ledger, options.dialogue_bytes)
        self._begin_anew()
        self._parts = self._open(*options.frame_size)
        _open_streams.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._parts.ingest.number} frames"
        return f"LiveStream({self.family.checkpoint.name!r}, {self._ledger.memory_bytes} bytes, {state})"

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def push(self, frame: Any, pts_seconds: float | None = None) -> Pushed:
        """Take the next frame in.

        Args:
            frame: a Frame, or uint8 RGB (rows, cols, 3) as an array, tensor or picture, of any size.
            pts_seconds: when it was; a Frame says so itself. Neither: one frame's duration after the one
                before.

        Raises InvalidTypeError or InvalidValueError for what is no frame, StreamClosedError after close, and
        DeviceError when the device runs out of memory. A frame that is not wanted is no error: see
        ``Pushed.reason``.
        """
        return self._push(read_picture(frame, pts_seconds))

    async def push_async(self, frame: Any, pts_seconds: float | None = None) -> Pushed:
        """As :meth:`push`, in a thread."""
        return await asyncio.to_thread(self.push, frame, pts_seconds)

    @overload
    def ask(self, question: str, *, stream: Literal[True], **settings: Any) -> AnswerStream: ...
    @overload
    def ask(self, question: str, *, stream: Literal[False] = False, **settings: Any) -> Answer: ...

    def ask(self, question: str, *, stream: bool = False, **settings: Any) -> Answer | AnswerStream:
        """Answer ``question`` from what the stream remembers when the answer's turn comes.

        Args:
            stream: return an AnswerStream of text pieces; the work begins when they are read.
            **settings: max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed, stop, and
                ``remember=True`` for later questions to see this one and its answer; see
                :func:`~streamprune.pipelines.live_question.read_question`.

        Raises InvalidValueError before the first frame, and where question and answer are too long for what
        was set aside; StreamClosedError after close.
        """
        asked = self._question(question, settings)
        if stream:
            return AnswerStream(lambda say, ended: self._answer(asked, say, ended))
        return self._answer(asked)

    async def ask_async(self, question: str, **settings: Any) -> Answer:
        """As :meth:`ask` without ``stream``, in a thread; cancelling it ends the answer."""
        ended = threading.Event()
        asked = self._question(question, settings)
        try:
            return await asyncio.to_thread(self._answer, asked, None, ended)
        finally:
            ended.set()

    def push_from(
        self,
        source: Any,
        *,
        fps: float | Fraction | None = None,
        drop: DropPolicy | None = "latest",
        **options: Any,
    ) -> Feed:
        """Push the frames of ``source`` from a thread of its own, until it ends or the feed is stopped.

        Args:
            source: whatever ``open_source`` takes, or an open Source, which the feed closes in the end.
            fps: at most so many frames a second.
            drop: what a live source does with frames that come faster than they are taken in.
            **options: of ``open_source``, e.g. ``realtime=True`` for a file.

        Raises what ``open_source`` raises; InvalidValueError where too few bytes are left for its queue.
        """
        self._check_open()
        return self._workers.feed(source, None if fps is None else check_fps("fps", fps), drop, options)

    def watch(
        self,
        question: str,
        callback: Callable[[Alert], object],
        *,
        every: float | None = None,
        on_novelty: bool = False,
        when: Callable[[str], bool] = begins_with_yes,
        repeat: bool = False,
        **settings: Any,
    ) -> Watch:
        """Ask ``question`` again and again in a thread of its own, and call ``callback`` with an Alert.

        Args:
            every, on_novelty, when, repeat: see :class:`~streamprune.pipelines.live_watch.WatchOptions`.
            **settings: as of :meth:`ask`; ``max_new_tokens`` is 16 unless given.
        """
        asked = read_question(question, **{"max_new_tokens": 16, **settings})
        chosen = WatchOptions(every=every, on_novelty=on_novelty, when=when, repeat=repeat)
        self._check_open()
        ask = partial(self._answer, asked, None)
        return self._workers.watch(lambda: Watch(question, ask, callback, chosen))

    def stats(self) -> LiveStats:
        """This moment."""
        with self._parts.ingest.state_lock:
            memory = None if self._closed else self._parts.ingest.memory
            tiers = {} if memory is None else dict(memory.tiers())
            oldest = None if memory is None else memory.remembers_from()
        return LiveStats(
            memory_bytes=self._ledger.memory_bytes,
            held={str(tier): nbytes for tier, nbytes in self._ledger.held.items()},
            peak_bytes=self._ledger.peak,
            clock_jumps=self._clock.jumps,
            newest_seconds=self._clock.newest,
            remembers_from_seconds=oldest,
            tiers=tiers,
            **self._tally.read(),
        )

    def describe(self) -> dict[str, Any]:
        """The settings in effect, who may hold how much, and what the memory reproduces, ready for JSON."""
        return described(self.family, self.options, self._parts.plan)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held beside the model."""
        yield from self._parts.tensors()
        yield from self._dialogue.tensors()

    def reset(self) -> None:
        """Forget everything, and begin anew with the same settings."""
        with self._order:
            self._check_open()
            size = self._parts.ingest.clip
            self._parts.close()
            self._dialogue.clear()
            self._begin_anew()
            self._parts = self._open(size.rows, size.cols)

    def close(self) -> None:
        """End feeds, watches and answers, forget everything and free it; closing twice is harmless."""
        with self._order:
            if self._closed:
                return
            self._closed = True
        self._workers.stop()
        self._parts.close()
        self._dialogue.clear()

    def _begin_anew(self) -> None:
        self._clock, self._tally = StreamClock(self.options.fps), Tally()

    def _open(self, rows: int, cols: int) -> Parts:
        clip = clip_of(self.family, self.options, rows, cols)
        return open_parts(self.family, self.options, self._ledger, clip, self._dialogue)

    def _push_from(self, origin: str, frame: Frame) -> Pushed:
        return self._push(read_picture(frame, origin=origin))

    def _push(self, picture: Picture) -> Pushed:
        with self._order:
            self._check_open()
            return self._take(picture)

    def _take(self, picture: Picture) -> Pushed:
        """Take ``picture`` in; called with the order held."""
        if picture.corrupt:
            return self._counted(Pushed(accepted=False, reason=CORRUPT), picture)
        moment = self._clock.read(picture.pts_seconds, picture.origin)
        if moment.refused:
            refused = Pushed(accepted=False, reason=moment.refused, pts_seconds=moment.seconds)
            return self._counted(refused, picture)
        try:
            self._fit(picture)
            pushed, event = self._parts.ingest.take(picture.image, moment.seconds)
        except Exception as error:
            self._tally.failed(f"failed: {type(error).__name__}")
            raise
        if pushed.tokens_in:
            self._workers.notice(moment.seconds, event)
        return self._counted(pushed, picture)

    def _fit(self, picture: Picture) -> None:
        """Show frames as large as suits the first one, if that is not what was planned for."""
        ingest = self._parts.ingest
        rows, cols = picture.image.shape[:2]
        if ingest.begun or (rows, cols) == (ingest.clip.rows, ingest.clip.cols):
            return
        if self.family.frame_size(clip_of(self.family, self.options, rows, cols)) != self._parts.size:
            self._parts.close()
            self._parts = self._open(rows, cols)

    def _counted(self, pushed: Pushed, picture: Picture) -> Pushed:
        arrival = picture.arrival_seconds
        self._tally.pushed(pushed, None if arrival is None else time.monotonic() - arrival)
        return pushed

    def _question(self, question: str, settings: dict[str, Any]) -> Question:
        asked = read_question(question, **settings)
        self._check_open()
        if not self._parts.ingest.number:
            missing = self.family.frames_per_slice
            raise InvalidValueError(
                f"there is nothing to ask about yet: push {missing} frame{'s' * (missing > 1)} at least, "
                "or wait until the source has delivered as many"
            )
        return asked

    def _answer(
        self,
        question: Question,
        say: Callable[[str], None] | None = None,
        ended: threading.Event | None = None,
    ) -> Answer:
        self._check_open()
        told = self._tally.read()
        counts = (self._parts.ingest.number, told["tokens_in"], told["tokens_kept"])
        answer = self._parts.answering.answer(question, counts, say, ended or threading.Event())
        self._tally.answered()
        return answer

    def _check_open(self) -> None:
        if self._closed:
            raise StreamClosedError("the stream is closed; open another one with vlm.open_stream()")


@atexit.register
def _close_all() -> None:
    for stream in list(_open_streams):
        stream.close()
