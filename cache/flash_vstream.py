"""Flash-VStream's memories: the past as means of like frames, beside a few frames in full."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from streamprune.cache.feature_memory import FeatureMethod, frame_bytes
from streamprune.cache.flash_memory import FlashMemory, StarMemory
from streamprune.cache.memory import Description, Room
from streamprune.cache.pooled_frame import PooledGrid
from streamprune.checks import check_count, check_number
from streamprune.errors import UnknownNameError

Form = Literal["star", "flash"]


@dataclass(frozen=True, kw_only=True)
class FlashVStream(FeatureMethod):
    """Two published memories that read a fixed number of tokens for every answer.

    ``star``: abstract tokens, means of half-sized frames, the frames nearest to the heaviest means, and the
    newest frame. ``flash``: for the heaviest groups the frame nearest to the mean in full, then the
    half-sized means of all groups.

    Args:
        form: which of the two.
        temporal_frames, abstract_tokens, retrieved_frames: of ``star``.
        buffer_frames: of ``star``: newest frames held in full, among which frames are retrieved.
        abstract_share: of ``star``: how much of an abstract token a new frame replaces, in [0, 1].
        synopsis_frames, detail_frames: of ``flash``.
        iterations: of each search for groups, at most.

    Source: arXiv 2406.08085 (``star``) and 2506.23825 (``flash``), with the released code of both.
    """

    form: Form = "star"
    temporal_frames: int = 25
    abstract_tokens: int = 25
    retrieved_frames: int = 3
    buffer_frames: int = 300
    abstract_share: float = 0.2
    synopsis_frames: int = 60
    detail_frames: int = 30
    iterations: int = 10

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownNameError.among("form of flash_vstream", self.form, get_args(Form))
        for name in ("temporal_frames", "buffer_frames", "synopsis_frames", "detail_frames", "iterations"):
            check_count(name, getattr(self, name))
        for name in ("abstract_tokens", "retrieved_frames"):
            check_count(name, getattr(self, name), least=0)
        check_number("abstract_share", self.abstract_share, 0, 1)

    def sizes(self, room: Room) -> tuple[int, int]:
        """Groups, and frames in full, that ``room`` has tokens for: as published, or fewer."""
        whole, half = self._tokens(room)
        if self.form == "star":
            rest = math.ceil(self.abstract_tokens / room.tokens_per_frame) * room.header_tokens
            rest += self.abstract_tokens + (1 + self.retrieved_frames) * whole
            return max(
                1, min(self.temporal_frames, (room.context_tokens - rest) // half)
            ), self.retrieved_frames
        wanted = self.synopsis_frames * half + self.detail_frames * whole
        share = min(1.0, room.context_tokens / wanted)
        groups = max(1, int(share * self.synopsis_frames))
        return groups, min(groups, max(1, int(share * self.detail_frames)))

    def _tokens(self, room: Room) -> tuple[int, int]:
        """Tokens of a frame in full and of half its size, with the text before each."""
        grid = PooledGrid.of(room)
        return room.tokens_per_frame + room.header_tokens, grid.tokens + room.header_tokens

    def minimum_bytes(self, room: Room) -> int:
        """All means in float32, and the frames in full that an answer reads, or that may be read."""
        groups, details = self.sizes(room)
        width = 4 * room.feature_bytes // room.shape.dtype.itemsize
        means = (groups + 1) * PooledGrid.of(room).tokens * width
        if self.form == "flash":
            return means + (groups + 1) * frame_bytes(room)
        return means + self.abstract_tokens * width + (details + 2) * frame_bytes(room)

    def context_tokens(self, room: Room) -> int:
        """All of it, or what the model is to see at once, if that is less."""
        groups, details = self.sizes(room)
        whole, half = self._tokens(room)
        total = groups * half + details * whole
        if self.form == "star":
            total += whole + self.abstract_tokens
            total += math.ceil(self.abstract_tokens / room.tokens_per_frame) * room.header_tokens
        return min(total, room.context_tokens)

    def begin(self, room: Room) -> StarMemory | FlashMemory:
        """As the base class says."""
        self.check_room(room)
        groups, details = self.sizes(room)
        if self.form == "flash":
            return FlashMemory(room, groups, details, self.iterations)
        return StarMemory(
            room,
            groups,
            details,
            self.iterations,
            self.buffer_frames,
            self.abstract_tokens,
            self.abstract_share,
        )

    def describe(self) -> Description:
        """What each form is made of."""
        differs = (
            "Groups are searched for from a fixed start, the cheapest two joined, not from a random one.",
            "Frames are halved by averaging the family's own tokens.",
            "Where the model is to see fewer tokens at once, there are fewer groups.",
            "Weights are those of the loaded model, not the ones trained with the memory.",
        )
        if self.form == "flash":
            return Description(
                "arXiv 2506.23825",
                (
                    f"Means of {self.synopsis_frames} groups of half-sized frames, in the order of time, "
                    f"behind the frame nearest to its mean of each of the {self.detail_frames} heaviest.",
                    "The time of a group is the weighted mean of its frames'; the release overwrites it.",
                ),
                (
                    "Groups are updated with every frame, each holding one frame in full, the nearest to its "
                    "mean of those that the groups it is made of held; the release keeps every frame and "
                    "groups them anew.",
                    *differs,
                ),
            )
        return Description(
            "arXiv 2406.08085",
            (
                f"{self.abstract_tokens} abstract tokens, means of {self.temporal_frames} groups of "
                f"half-sized frames, {self.retrieved_frames} frames, and the newest, read in this order.",
                "Every group weighs as many frames as it has taken in.",
                "Every abstract token moves by the same share towards each new frame.",
            ),
            (
                f"Frames are retrieved among the newest {self.buffer_frames}, fewer when the bytes are full, "
                "as the paper says, and nearest to the mean; the release keeps every frame and finds early "
                "ones.",
                "The first frames become the abstract tokens; the release starts from trained ones.",
                *differs,
            ),
        )
