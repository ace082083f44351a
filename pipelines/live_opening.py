"""Everything a stream consists of, made from its options and fitted into its bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from streamprune.cache.block import storage_bytes
from streamprune.cache.gate import FrameGate
from streamprune.cache.ledger import Ledger
from streamprune.cache.memory import Room, StreamMemory
from streamprune.encoder.stc import STCCacher
from streamprune.errors import InvalidValueError
from streamprune.models.base import EncodedFrames, VideoFamily
from streamprune.models.inside_tower import check_inside
from streamprune.models.preprocessing import Clip
from streamprune.models.stream_model import StreamModel
from streamprune.models.tower_stream import TowerStream
from streamprune.pipelines.live_answer import Answering
from streamprune.pipelines.live_dialogue import Dialogue
from streamprune.pipelines.live_ingest import Ingest
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_plan import Plan, Shares, plan
from streamprune.pipelines.live_reduce import CausalReducer
from streamprune.pipelines.live_tokens import PlainTower, Tokens, Tower
from streamprune.tokens import VideoGrid

# what something takes is found by letting it take as much as it needs
_UNBOUNDED = 2**62


@dataclass(frozen=True, eq=False)
class Parts:
    """What a stream consists of.

    Attributes:
        model: reads frames and questions.
        ingest: the way in.
        memory: what is remembered.
        answering: the way out.
        plan: who may hold how much.
        size: (rows, cols) in pixels in which the tower sees frames.
    """

    model: StreamModel
    ingest: Ingest
    memory: StreamMemory
    answering: Answering
    plan: Plan
    size: tuple[int, int]

    def close(self) -> None:
        """End answers, and let go of everything."""
        self.answering.end()
        self.ingest.close()

    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""
        return self.ingest.tensors()


def clip_of(family: VideoFamily, options: StreamOptions, rows: int, cols: int) -> Clip:
    """The clip whose frames are as large as the stream's, whose first picture has (rows, cols)."""
    return Clip(options.clip_frames or family.default_num_frames, rows, cols)


def open_parts(
    family: VideoFamily, options: StreamOptions, ledger: Ledger, clip: Clip, dialogue: Dialogue
) -> Parts:
    """Make a stream whose pictures are as large as those of ``clip``.

    Raises UsageError, UnsupportedModelError, SignalError, or InvalidValueError for too few bytes.
    """
    slices_a_second = float(options.fps or 1) / family.frames_per_slice
    model = StreamModel(family, 1 / slices_a_second)
    with _Front(family, options, Ledger(_UNBOUNDED), clip) as tried:
        seen, size = tried.look_once()
        grid = VideoGrid(1, *seen.features.shape[1:3])
        room = _room(model, options, ledger, clip, grid, seen, slices_a_second)
        fixed = {**tried.reserve(seen, slices_a_second), "layout of a frame": _held(model.tensors())}
    shared = plan(
        options.memory,
        room,
        _shares(model, room, grid, options, fixed),
        _name(family, options),
        context_given=options.context_tokens is not None,
    )
    with ExitStack() as undo:
        front = undo.enter_context(_Front(family, options, ledger, clip))
        front.reserve(seen, slices_a_second)
        tokens = Tokens(family, front.tower, front.reducer, ledger)
        ingest = Ingest(family, model, options, ledger, front.gate, tokens, clip)
        undo.callback(ingest.close)
        memory = options.memory.begin(shared.room)
        ingest.open(memory, shared, grid)
        undo.pop_all()
    return Parts(model, ingest, memory, Answering(ingest, shared, options, dialogue), shared, size)


class _Front:
    """What frames meet before the language model: gate, vision tower, reducer."""

    def __init__(self, family: VideoFamily, options: StreamOptions, ledger: Ledger, clip: Clip) -> None:
        self._family, self._options, self._ledger, self._clip = family, options, ledger, clip
        self._needs = options.request().needs()
        family.check_frame_signals(self._needs)
        self.tower = _tower(family, options, ledger)
        self.gate = None if options.gate is None else FrameGate(**options.gate, ledger=ledger)
        self._reducer: CausalReducer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.tower.close()
        if self.gate is not None:
            self.gate.close()
        if self._reducer is not None:
            self._reducer.close()

    @property
    def reducer(self) -> CausalReducer:
        """There after :meth:`reserve`."""
        assert self._reducer is not None
        return self._reducer

    def look_once(self) -> tuple[EncodedFrames, tuple[int, int]]:
        """What becomes of a blank picture, and (rows, cols) in pixels in which the tower sees it."""
        family, clip = self._family, self._clip
        blank = np.zeros((clip.rows, clip.cols, 3), dtype=np.uint8)
        with family.lock.first:
            pixels = family.preprocess([blank] * family.frames_per_slice, clip)
            return self.tower.encode(pixels, self._needs, None), (int(pixels.shape[2]), int(pixels.shape[3]))

    def reserve(self, seen: EncodedFrames, slices_a_second: float) -> dict[str, int]:
        """Bytes of all this for frames like ``seen``, by what they are for."""
        rows, cols = seen.features.shape[1:3]
        self._reducer = self._options.reducer(rows * cols, slices_a_second, self._ledger)
        size = self._family.frame_size(self._clip)
        pictures = self._family.frames_per_slice + ("pixel_change" in self._needs)
        return {
            "vision tower": _held(self.tower.tensors()),
            "reducer": self._reducer.reserve(seen),
            "frame gate": 0 if self.gate is None else _held(self.gate.tensors()),
            "pictures": pictures * size[0] * size[1] * 3 * 4,
        }


def _tower(family: VideoFamily, options: StreamOptions, ledger: Ledger) -> Tower:
    encoder = options.encoder()
    if encoder is not None:
        check_inside(family, encoder, options.request().needs())
    if isinstance(encoder, STCCacher):
        return TowerStream(family, encoder, ledger)
    return PlainTower(family, encoder)


def _room(
    model: StreamModel,
    options: StreamOptions,
    ledger: Ledger,
    clip: Clip,
    grid: VideoGrid,
    seen: EncodedFrames,
    slices_a_second: float,
) -> Room:
    head = model.head(grid)
    longest = model.family.context_tokens - len(head) - options.answer_tokens
    if longest < 1:
        raise InvalidValueError(
            f"answer_tokens={options.answer_tokens} leave nothing of the model's context of "
            f"{model.family.context_tokens} tokens; give fewer"
        )
    rows = [seen.features] if seen.carried is None else [seen.features, seen.carried]
    header = _header_tokens(model, grid)
    clip_tokens = math.ceil(clip.frames / model.family.frames_per_slice) * (grid.tokens + header)
    return Room(
        shape=model.shape(grid),
        rotation=model.rotation,
        ledger=ledger,
        memory_bytes=ledger.memory_bytes,
        tokens_per_frame=grid.tokens_per_frame,
        cols=grid.cols,
        header_tokens=header,
        feature_bytes=sum(one.shape[-1] * one.element_size() for one in rows),
        fps=slices_a_second,
        context_tokens=min(longest, options.context_tokens or clip_tokens),
        spill_folder=options.spill_folder,
        spill_bytes=options.spill_bytes,
    )


def _header_tokens(model: StreamModel, grid: VideoGrid) -> int:
    """Text around a frame; the first one may have another."""
    layout = model.layout(grid)
    return max(int((~layout.frame(0.0, first=first).visual).sum()) for first in (True, False))


def _shares(
    model: StreamModel, room: Room, grid: VideoGrid, options: StreamOptions, fixed: dict[str, int]
) -> Shares:
    head = len(model.head(grid))
    opening = len(model.opening(grid)) if "proxy_queries" in options.memory.wants else 0
    head_bytes = head * (room.shape.token_bytes + 4 * room.shape.axes + 4)
    return Shares(
        head_tokens=head,
        chunk_tokens=room.header_tokens + room.tokens_per_frame + opening,
        answer_tokens=options.answer_tokens,
        answers=options.answers_at_once,
        fixed={"head of the prompt": head_bytes, "dialogue": options.dialogue_bytes, **fixed},
        queues=options.for_queues,
    )


def _held(tensors: Iterable[torch.Tensor]) -> int:
    return storage_bytes(list(tensors))


def _name(family: VideoFamily, options: StreamOptions) -> str:
    memory = type(options.memory).__name__
    return f"{family.checkpoint.name!r} with the memory {memory} and the recipe {options.recipe.name!r}"
