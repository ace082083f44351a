"""Everything a stream consists of, made from its options and fitted into its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

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
from streamprune.pipelines.live_tokens import PlainTower, Tokens, Tower
from streamprune.tokens import VideoGrid


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
    request = options.request()
    family.check_frame_signals(request.needs())
    slices_a_second = float(options.fps or 1) / family.frames_per_slice
    model = StreamModel(family, 1 / slices_a_second)
    with ExitStack() as undo:
        tower = _tower(family, options, ledger)
        undo.callback(tower.close)
        gate = None if options.gate is None else FrameGate(**options.gate, ledger=ledger)
        if gate is not None:
            undo.callback(gate.close)
        seen, size = _look_once(family, tower, request.needs(), clip)
        grid = VideoGrid(1, *seen.features.shape[1:3])
        reducer = options.reducer(grid.tokens_per_frame, slices_a_second, ledger)
        undo.callback(reducer.close)
        room = _room(model, options, ledger, grid, seen, slices_a_second)
        pictures = family.frames_per_slice + ("pixel_change" in reducer.needs)
        fixed = {
            "vision tower": _held(tower.tensors()),
            "reducer": reducer.reserve(seen),
            "frame gate": 0 if gate is None else _held(gate.tensors()),
            "pictures": pictures * size[0] * size[1] * 3 * 4 + options.for_frames,
        }
        tower.reset()
        shared = plan(
            options.memory,
            room,
            _shares(model, room, grid, options, fixed),
            _name(family, options),
            context_given=options.context_tokens is not None,
        )
        tokens = Tokens(family, tower, reducer, ledger)
        ingest = Ingest(family, model, options, ledger, gate, tokens, clip)
        memory = options.memory.begin(shared.room)
        ingest.open(memory, shared, grid)
        undo.pop_all()
    return Parts(model, ingest, memory, Answering(ingest, shared, options, dialogue), shared, size)


def _tower(family: VideoFamily, options: StreamOptions, ledger: Ledger) -> Tower:
    encoder = options.encoder()
    if encoder is not None:
        check_inside(family, encoder, options.request().needs())
    if isinstance(encoder, STCCacher):
        return TowerStream(family, encoder, ledger)
    return PlainTower(family, encoder)


def _look_once(
    family: VideoFamily, tower: Tower, needs: tuple[str, ...], clip: Clip
) -> tuple[EncodedFrames, tuple[int, int]]:
    """What the tower makes of a picture: how many tokens, how wide, and what it remembers of it."""
    blank = np.zeros((clip.rows, clip.cols, 3), dtype=np.uint8)
    with family.lock.first:
        pixels = family.preprocess([blank] * family.frames_per_slice, clip)
        return tower.encode(pixels, needs, None), (int(pixels.shape[2]), int(pixels.shape[3]))


def _room(
    model: StreamModel,
    options: StreamOptions,
    ledger: Ledger,
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
    return Room(
        shape=model.shape(grid),
        rotation=model.rotation,
        ledger=ledger,
        memory_bytes=ledger.memory_bytes,
        tokens_per_frame=grid.tokens_per_frame,
        cols=grid.cols,
        header_tokens=_header_tokens(model, grid),
        feature_bytes=sum(one.shape[-1] * one.element_size() for one in rows),
        fps=slices_a_second,
        context_tokens=min(longest, options.context_tokens or longest),
        spill_folder=options.spill_folder,
        spill_bytes=options.spill_bytes,
    )


def _header_tokens(model: StreamModel, grid: VideoGrid) -> int:
    """Text around a frame."""
    return int((~model.layout(grid).frame(0.0).visual).sum())


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
    )


def _held(tensors: Iterator[torch.Tensor] | tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _name(family: VideoFamily, options: StreamOptions) -> str:
    memory = type(options.memory).__name__
    return f"{family.checkpoint.name!r} with the memory {memory} and the recipe {options.recipe.name!r}"
