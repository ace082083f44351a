"""A stream that is watched: frames go in, questions are answered at any moment, memory stays within a budget.

with vlm.open_stream(memory_bytes="256MB", fps=2) as live:
    live.push_from("rtsp://camera.local/stream")
    print(live.ask("What changed?"))
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import torch

from streamprune.errors import InvalidTypeError
from streamprune.models.base import VideoFamily
from streamprune.pipelines.answers import Answer, AnswerStream
from streamprune.pipelines.live_core import LiveCore
from streamprune.pipelines.live_describe import described
from streamprune.pipelines.live_feed import Feed
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_picture import read_picture
from streamprune.pipelines.live_question import Question, read_settings
from streamprune.pipelines.live_saving import check_model, misfits_explained, read_options, snapshot_of
from streamprune.pipelines.live_snapshot import read_snapshot, write_snapshot
from streamprune.pipelines.live_stats import LiveStats, Pushed
from streamprune.pipelines.live_watch import Alert, Watch, WatchOptions, begins_with_yes
from streamprune.pipelines.live_workers import Workers
from streamprune.readers import Frame
from streamprune.readers.base import check_fps
from streamprune.readers.live_options import DropPolicy

if TYPE_CHECKING:
    from streamprune.pipelines.offline import VideoLLM

# their threads are ended before the interpreter goes down, as if they had been closed
_open_streams: weakref.WeakSet[LiveStream] = weakref.WeakSet()


class LiveStream:
    """What a model has seen of one stream; made by ``vlm.open_stream``. Close it, or use it in a ``with``.

    Every method may be called from any thread. Frames are taken in one after the other; questions are
    answered from copies, meanwhile, and leave no trace.
    """

    def __init__(self, family: VideoFamily, options: StreamOptions) -> None:
        self.family, self.options = family, options
        self._core = LiveCore(family, options, self._notice)
        self._workers = Workers(self._push_from, self._core.ledger, options.for_queues(options.memory_bytes))
        _open_streams.add(self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self._core.parts.ingest.number} frames"
        return f"LiveStream({self.family.checkpoint.name!r}, {self.options.memory_bytes} bytes, {state})"

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
        return self._core.closed

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
        return self._core.push(read_picture(frame, pts_seconds))

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
            return AnswerStream(partial(self._core.answer, asked))
        return self._core.answer(asked, None, threading.Event())

    async def ask_async(self, question: str, **settings: Any) -> Answer:
        """As :meth:`ask` without ``stream``, in a thread; cancelling it ends the answer."""
        ended = threading.Event()
        asked = self._question(question, settings)
        try:
            return await asyncio.to_thread(self._core.answer, asked, None, ended)
        finally:
            ended.set()

    def push_from(
        self,
        source: Any,
        *,
        fps: float | Fraction | None = None,
        drop: DropPolicy | None = "latest",
        on_pushed: Callable[[Frame, Pushed], object] | None = None,
        **options: Any,
    ) -> Feed:
        """Push the frames of ``source`` from a thread of its own, until it ends or the feed is stopped.

        Args:
            source: whatever ``open_source`` takes, or an open Source, which the feed closes in the end.
            fps: at most so many frames a second.
            drop: what a live source does with frames that come faster than they are taken in.
            on_pushed: called with every frame and what became of it, from the feed's thread.
            **options: of ``open_source``, e.g. ``realtime=True`` for a file.

        Raises what ``open_source`` raises; InvalidValueError where too few bytes are left for its queue.
        """
        self._check_open()
        rate = None if fps is None else check_fps("fps", fps)
        return self._workers.feed(source, rate, drop, options, on_pushed)

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
        asked = read_settings(question, {"max_new_tokens": 16, **settings})
        chosen = WatchOptions(every=every, on_novelty=on_novelty, when=when, repeat=repeat)
        self._check_open()
        ask = partial(self._core.answer, asked, None)
        return self._workers.watch(lambda: Watch(question, ask, callback, chosen))

    def stats(self) -> LiveStats:
        """This moment."""
        return self._core.stats()

    def describe(self) -> dict[str, Any]:
        """The settings in effect, who may hold how much, and what the memory reproduces, ready for JSON."""
        return described(self.family, self.options, self._core.plan)

    def save(self, path: str | Path) -> None:
        """Write everything that is remembered to ``path``, whole or not at all; frames wait meanwhile.

        Raises StorageError, which leaves an older file as it was; RecipeError for a memory without a name.
        """
        self._core.save(lambda state: write_snapshot(path, snapshot_of(self.family, self.options, state)))

    @classmethod
    def load(cls, path: str | Path, vlm: VideoLLM, *, spill_folder: str | Path | None = None) -> LiveStream:
        """Go on with a stream that was saved, with the model it was saved with.

        Args:
            spill_folder: in place of the saved one.

        Raises SnapshotError for a file that cannot be read, or that another model wrote.
        """
        if not isinstance(getattr(vlm, "family", None), VideoFamily):
            raise InvalidTypeError(f"vlm must be a VideoLLM, as load() gives it, got {type(vlm).__name__}")
        snapshot = read_snapshot(path)
        with misfits_explained(path):
            check_model(snapshot, vlm.family, path)
            about = snapshot.about["state"]
            rows, cols = about["own"]["clip"]
            options = read_options(snapshot.about["options"], (rows, cols), spill_folder)
            live = cls(vlm.family, options)
            try:
                live._core.restore(snapshot.tensors, about)
            except BaseException:
                live.close()
                raise
        return live

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held beside the model; nothing may be pushed meanwhile."""
        return self._core.tensors()

    def reset(self) -> None:
        """Forget everything, and begin anew with the same settings."""
        self._core.reset()

    def close(self) -> None:
        """End feeds, watches and answers, forget everything and free it; closing twice is harmless."""
        self._workers.stop()
        self._core.close()

    def _notice(self, seconds: float, event: bool) -> None:
        self._workers.notice(seconds, event)

    def _question(self, question: str, settings: dict[str, Any]) -> Question:
        asked = read_settings(question, settings)
        self._core.check_question()
        return asked

    def _check_open(self) -> None:
        """StreamClosedError after :meth:`close`."""
        _ = self._core.parts

    def _push_from(self, origin: str, frame: Frame) -> Pushed:
        return self._core.push(read_picture(frame, origin=origin))


@atexit.register
def _close_all() -> None:
    for stream in list(_open_streams):
        stream.close()
