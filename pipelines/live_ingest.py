"""The way of a frame into a stream's memory: gate, vision tower, reducer, language model.

Only :class:`Ingest` writes to the memory. What it shares with questions is behind :attr:`Ingest.state_lock`,
which is never held while the model works.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from streamprune.cache.block import Block, FeatureBlock, storage_bytes
from streamprune.cache.gate import FrameGate, Look
from streamprune.cache.ledger import Ledger
from streamprune.cache.memory import Heard, StreamMemory, TierReport
from streamprune.cache.working import WorkingCache
from streamprune.models.base import VideoFamily
from streamprune.models.devices import out_of_memory_explained
from streamprune.models.preprocessing import Clip, Image
from streamprune.models.stream_model import Chunk, StreamModel
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_plan import Plan
from streamprune.pipelines.live_states import State, joined, part_of
from streamprune.pipelines.live_stats import Pushed
from streamprune.pipelines.live_tokens import KeptFrame, Tokens
from streamprune.pipelines.stopwatch import Stopwatch
from streamprune.tokens import VideoGrid

WAITS = "waits for the rest of its slice"
DUPLICATE = "like the frame before"


class Ingest:
    """Takes frames, one at a time.

    Args:
        family, model: what sees and reads them.
        options: how.
        ledger: of the stream.
        gate: skips duplicates; None lets everything pass.
        tokens: vision tower and reducer.
        clip: pictures are shown to the tower as large as those of this clip, whatever size they come in.
    """

    def __init__(
        self,
        family: VideoFamily,
        model: StreamModel,
        options: StreamOptions,
        ledger: Ledger,
        gate: FrameGate | None,
        tokens: Tokens,
        clip: Clip,
    ) -> None:
        self.family, self.model = family, model
        self.ledger, self.gate, self.tokens = ledger, gate, tokens
        self.state_lock = threading.Lock()
        self._wants = options.memory.wants
        self._memory: StreamMemory | None = None
        self._working: WorkingCache | None = None
        self._grid: VideoGrid | None = None
        self.clip = clip
        self._layout_bytes = 0
        self.number = 0
        self.newest_seconds: float | None = None
        self.begun = False
        self._event = False  # among the pictures of the slice that is being filled
        self.begin: tuple[int, ...] = ()

    @property
    def memory(self) -> StreamMemory:
        """What is remembered; there once :meth:`open` was called."""
        assert self._memory is not None
        return self._memory

    @property
    def grid(self) -> VideoGrid:
        """Of one frame of tokens."""
        assert self._grid is not None
        return self._grid

    def open(self, memory: StreamMemory, plan: Plan, grid: VideoGrid) -> None:
        """Begin to remember in ``memory``, with the head of the prompt."""
        self._memory, self._grid = memory, grid
        shape, begin = plan.room.shape, (0,) * plan.room.shape.axes
        if plan.write_tokens:
            self._working = WorkingCache(shape, plan.write_tokens, self.ledger)
            head = self._head(self._working, begin)
            self._working.cut(0)
        else:
            with WorkingCache(shape, plan.answer_tokens, self.ledger) as working:
                head = self._head(working, begin)
        memory.sinks(head)
        self.begin = head.span
        self._layout_bytes = storage_bytes(list(self.model.tensors()))
        self.ledger.take("working", self._layout_bytes)

    def close(self) -> None:
        """Let go of everything."""
        self.tokens.close()
        if self.gate is not None:
            self.gate.close()
        with self.state_lock:
            if self._working is not None:
                self._working.close()
            if self._memory is not None:
                self._memory.close()
            self._working = self._memory = None
            self.ledger.give("working", self._layout_bytes)
            self._layout_bytes = 0

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held here."""
        if self._memory is not None:
            yield from self._memory.tensors()
        if self._working is not None:
            yield from self._working.tensors()
        if self.gate is not None:
            yield from self.gate.tensors()
        yield from self.tokens.tensors()
        if self._layout_bytes:
            yield from self.model.tensors()

    def report(self) -> tuple[dict[str, TierReport], float | None]:
        """What the memory holds by tier, and since when; nothing once it is closed."""
        with self.state_lock:
            if self._memory is None:
                return {}, None
            return dict(self._memory.tiers()), self._memory.remembers_from()

    def state(self) -> State:
        """What :meth:`restore` goes on from; called between two frames."""
        about = {"number": self.number, "begin": self.begin, "event": self._event}
        own: State = {}, {**about, "newest": self.newest_seconds}
        gate: State = ({}, {}) if self.gate is None else self.gate.state()
        with self.state_lock:
            memory = self.memory.state()
        return joined({"own": own, "gate": gate, "tokens": self.tokens.state(), "memory": memory})

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        own = about["own"]
        if self.gate is not None:
            self.gate.restore(part_of("gate", tensors), about["gate"])
        self.tokens.restore(part_of("tokens", tensors), about["tokens"])
        with self.state_lock:
            self.memory.restore(part_of("memory", tensors), about["memory"])
            self.number, self.begin, self._event = own["number"], tuple(own["begin"]), own["event"]
            self.newest_seconds = own["newest"]
            self.begun = True

    def look(self, image: Image) -> Look:
        """What the gate says."""
        return Look(1.0, False, True) if self.gate is None else self.gate.look(image)

    def take(self, image: Image, seconds: float) -> tuple[Pushed, bool]:
        """Take the next frame in; also whether something new can be asked about since it was."""
        watch = Stopwatch(self.family.vision_device())
        self.begun = True
        with watch.measure("gate"):
            look = self.look(image)
        pushed = Pushed(accepted=True, pts_seconds=seconds, novelty=look.novelty)
        if look.duplicate:
            return replace(pushed, accepted=False, reason=DUPLICATE, ms=watch.ms), False
        with out_of_memory_explained("a frame of the stream"):
            kept = self.tokens.take(image, self.clip, seconds, look.novelty, watch)
            self._event |= look.event
            if kept is None:
                return replace(pushed, reason=WAITS, ms=watch.ms), False
            event, self._event = self._event, False
            self._write(kept, watch)
        return replace(pushed, ms=watch.ms, **kept.told()), event

    def _write(self, kept: KeptFrame, watch: Stopwatch) -> None:
        """Let the language model read what is left of a frame, if the memory wants it read, and remember."""
        block: Block | FeatureBlock | None
        heard, span = Heard(), (0,) * len(self.begin)
        if self._working is None:
            block = self._feature_block(kept)
        else:
            with watch.measure("read"):
                chunk = self.model.frame(
                    self.grid,
                    kept.middle_seconds,
                    kept.features,
                    kept.cells,
                    kept.carried,
                    first=self.number == 0,
                )
                span = chunk.span
                # a still frame may leave nothing, not even text around it: it only takes its time
                block, heard = self._read(chunk, kept, self._working) if len(chunk) else (None, heard)
        if block is not None:
            # until the memory has room for it
            self.ledger.take("working", block.nbytes)
        with watch.measure("remember"), self.state_lock:
            if block is not None:
                self.ledger.give("working", block.nbytes)
                self.memory.write(block, heard)
            self.number += 1
            self.newest_seconds = kept.stop_seconds
            self.begin = tuple(at + wide for at, wide in zip(self.begin, span, strict=True))

    def _read(self, chunk: Chunk, kept: KeptFrame, working: WorkingCache) -> tuple[Block, Heard]:
        model = self.model
        with self.state_lock:
            context = self.memory.context()
            working.fill(context)
            end = context.end
        with self.family.lock.first:
            reading = model.read(chunk, end, working, queries="chunk_queries" in self._wants)
            block = model.block(
                chunk,
                reading,
                working,
                number=self.number,
                seconds=(kept.start_seconds, kept.stop_seconds),
                begin=self.begin,
                novelty=kept.novelty,
            )
            proxy = self._proxy(chunk, end, working) if "proxy_queries" in self._wants else None
        return block, Heard(reading.queries, proxy)

    def _proxy(self, chunk: Chunk, end: tuple[int, ...], working: WorkingCache) -> torch.Tensor | None:
        """Queries of the text that opens an answer, behind a frame that was read at ``end``."""
        behind = tuple(at + wide for at, wide in zip(end, chunk.span, strict=True))
        opening = self.model.opening(self.grid)
        place = self.model.tail_place(self.grid, behind)
        return self.model.read(opening, place, working, queries=True).queries

    def _head(self, working: WorkingCache, begin: tuple[int, ...]) -> Block:
        model = self.model
        with self.family.lock.first:
            head = model.head(self.grid)
            reading = model.read(head, begin, working)
            return model.block(head, reading, working, number=-1, seconds=(0.0, 0.0), begin=begin)

    def _feature_block(self, kept: KeptFrame) -> FeatureBlock:
        return FeatureBlock(
            self.number,
            kept.start_seconds,
            kept.stop_seconds,
            kept.features,
            kept.cells.to(torch.int32),
            kept.carried,
            kept.sizes,
            kept.novelty,
        )
