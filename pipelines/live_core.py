"""What a stream is made of, and in which order things happen to it: frames, questions, saving, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from streamprune.cache.ledger import Ledger
from streamprune.errors import InvalidValueError, StreamClosedError
from streamprune.models.base import VideoFamily
from streamprune.pipelines.answers import Answer
from streamprune.pipelines.live_clock import StreamClock
from streamprune.pipelines.live_dialogue import Dialogue
from streamprune.pipelines.live_opening import Parts, clip_of, open_parts
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_picture import Picture
from streamprune.pipelines.live_question import Question
from streamprune.pipelines.live_states import State, joined, part_of
from streamprune.pipelines.live_stats import LiveStats, Pushed, Tally

CORRUPT = "damaged"


class LiveCore:
    """The state of one stream; every method may be called from any thread.

    Args:
        family: what looks.
        options: how.
        notice: called with the time of every frame of tokens that was taken in, and whether it is an event.
    """

    def __init__(
        self, family: VideoFamily, options: StreamOptions, notice: Callable[[float, bool], None]
    ) -> None:
        self.family, self.options = family, options
        self.ledger = Ledger(options.memory_bytes)
        self._notice = notice
        self._order = threading.Lock()  # of frames, and of what must not come between two of them
        self._dialogue = Dialogue(self.ledger, options.dialogue_bytes)
        self._clock, self._tally = StreamClock(options.fps), Tally()
        self._parts: Parts | None = self._open(*options.frame_size)
        self.plan = self.parts.plan

    @property
    def parts(self) -> Parts:
        """What it consists of; StreamClosedError once it is closed."""
        parts = self._parts
        if parts is None:
            raise StreamClosedError("the stream is closed; open another one with vlm.open_stream()")
        return parts

    @property
    def closed(self) -> bool:
        """Whether there is nothing left."""
        return self._parts is None

    def push(self, picture: Picture) -> Pushed:
        """Take the next frame in."""
        with self._order:
            _ = self.parts  # raises when it is closed
            return self._take(picture)

    def check_question(self) -> None:
        """Raise InvalidValueError before the first frame."""
        if not self.parts.ingest.number:
            missing = self.family.frames_per_slice
            raise InvalidValueError(
                f"there is nothing to ask about yet: push {missing} frame{'s' * (missing > 1)} at least, "
                "or wait until the source has delivered as many"
            )

    def answer(self, question: Question, say: Callable[[str], None] | None, ended: threading.Event) -> Answer:
        """Answer from what is remembered; ``ended`` may be set to cut it short."""
        answer = self.parts.answering.answer(question, say, ended)
        self._tally.answered()
        return answer

    def stats(self) -> LiveStats:
        """This moment."""
        parts = self._parts
        tiers, oldest = ({}, None) if parts is None else parts.ingest.report()
        return LiveStats(
            memory_bytes=self.ledger.memory_bytes,
            held={str(tier): nbytes for tier, nbytes in self.ledger.held.items()},
            peak_bytes=self.ledger.peak,
            clock_jumps=self._clock.jumps,
            newest_seconds=self._clock.newest,
            remembers_from_seconds=oldest,
            tiers=tiers,
            **self._tally.read(),
        )

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held beside the model."""
        if self._parts is not None:
            yield from self._parts.tensors()
        yield from self._dialogue.tensors()

    def save(self, write: Callable[[State], None]) -> None:
        """Call ``write`` with the state; frames wait meanwhile."""
        with self._order:
            clip = self.parts.ingest.clip
            clocks = {"clock": self._clock.state(), "tally": self._tally.state()}
            own: State = {}, {"clip": [clip.rows, clip.cols], **clocks}
            ingest, dialogue = self.parts.ingest.state(), self._dialogue.state()
            write(joined({"own": own, "ingest": ingest, "dialogue": dialogue}))

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over a saved state."""
        self._clock.restore(about["own"]["clock"])
        self._tally.restore(about["own"]["tally"])
        self.parts.ingest.restore(part_of("ingest", tensors), about["ingest"])
        self._dialogue.restore(part_of("dialogue", tensors))

    def reset(self) -> None:
        """Forget everything, and begin anew."""
        with self._order:
            clip = self.parts.ingest.clip
            self._reopen(clip.rows, clip.cols)
            self._dialogue.clear()
            self._clock, self._tally = StreamClock(self.options.fps), Tally()

    def close(self) -> None:
        """End answers, forget everything and free it; closing twice is harmless."""
        with self._order:
            parts, self._parts = self._parts, None
            if parts is not None:
                parts.close()
                self._dialogue.clear()

    def _open(self, rows: int, cols: int) -> Parts:
        clip = clip_of(self.family, self.options, rows, cols)
        return open_parts(self.family, self.options, self.ledger, clip, self._dialogue)

    def _reopen(self, rows: int, cols: int) -> None:
        """Begin anew with pictures of another size; if that fails there is nothing left to go on with."""
        self.parts.close()
        try:
            self._parts = self._open(rows, cols)
        except BaseException:
            self._parts = None
            raise
        self.plan = self._parts.plan

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
            pushed, event = self.parts.ingest.take(picture.image, moment.seconds)
        except Exception as error:
            self._tally.failed(f"failed: {type(error).__name__}")
            raise
        if pushed.tokens_in:
            self._notice(moment.seconds, event)
        return self._counted(pushed, picture)

    def _fit(self, picture: Picture) -> None:
        """Show frames as large as suits the first one, if that is not what was planned for."""
        parts = self.parts
        rows, cols = picture.image.shape[:2]
        if parts.ingest.begun or (rows, cols) == (parts.ingest.clip.rows, parts.ingest.clip.cols):
            return
        if self.family.frame_size(clip_of(self.family, self.options, rows, cols)) != parts.size:
            self._reopen(rows, cols)

    def _counted(self, pushed: Pushed, picture: Picture) -> Pushed:
        arrival = picture.arrival_seconds
        self._tally.pushed(pushed, None if arrival is None else time.monotonic() - arrival)
        return pushed
