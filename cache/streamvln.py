"""StreamVLN's memory: the turns of the current window, and a few frames from all that came before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.feature_memory import FeatureMethod, FrameQueue, frame_bytes, newest_within
from streamprune.cache.memory import Description, Heard, Room
from streamprune.checks import check_count


@dataclass(frozen=True, kw_only=True)
class StreamVLN(FeatureMethod):
    """A window that starts anew every ``turns`` turns, behind ``memory_frames`` older frames.

    Args:
        turns: of a window.
        frames_per_turn: frames of tokens in a turn.
        memory_frames: chosen at even distances, from the first on, among all frames before the window.

    Source: arXiv 2507.05240 and its released navigation loop.
    """

    turns: int = 8
    frames_per_turn: int = 1
    memory_frames: int = 8

    def __post_init__(self) -> None:
        for name in ("turns", "frames_per_turn", "memory_frames"):
            check_count(name, getattr(self, name))

    @property
    def window_frames(self) -> int:
        """Frames of a whole window."""
        return self.turns * self.frames_per_turn

    def minimum_bytes(self, room: Room) -> int:
        """A whole window behind its older frames."""
        return (self.window_frames + self.memory_frames) * frame_bytes(room)

    def context_tokens(self, room: Room) -> int:
        """The same in tokens, or what the model is to see at once, if that is less."""
        frames = self.window_frames + self.memory_frames
        return min(frames * (room.tokens_per_frame + room.header_tokens), room.context_tokens)

    def begin(self, room: Room) -> TurnMemory:
        """As the base class says."""
        self.check_room(room)
        return TurnMemory(self, room)

    def describe(self) -> Description:
        """Window and slow memory."""
        return Description(
            "arXiv 2507.05240",
            (
                f"After every {self.turns} turns the window starts anew, without any of its frames.",
                f"{self.memory_frames} older frames stand before it, at steps of the whole number of older "
                f"frames over {self.memory_frames}.",
                "Positions are contiguous and start anew for every answer.",
            ),
            (
                "The release grows without bound: here the oldest frames are dropped once the bytes are "
                "full, and the older frames are chosen among those left.",
                "Visual tokens are kept, so no frame is encoded twice; keys and values of the window are "
                "made for every question, which gives the same answers.",
                "Older frames have the family's own number of tokens, not 14 x 14.",
                "Pruning by depth is in the paper only, and not here.",
            ),
        )


def stride_places(frames: int, count: int) -> list[int]:
    """``count`` places among ``frames`` at equal steps, rounded down, from the first on; all of a few."""
    return [place * max(1, frames // count) for place in range(min(frames, count))]


class TurnMemory(FrameQueue):
    """The frames of a :class:`StreamVLN`.

    Args:
        method: its options.
        room: in which it works.
    """

    def __init__(self, method: StreamVLN, room: Room) -> None:
        super().__init__(room)
        self.method = method
        self.written = 0

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Count it, too."""
        self.written += bool(self.read(block).tokens)
        super().write(block, heard)

    def recall(self, queries: torch.Tensor | None) -> Sequence[FeatureBlock]:
        """Older frames, then the window."""
        # the newest frame belongs to the window that it filled
        in_window = (self.written - 1) % self.method.window_frames + 1 if self.written else 0
        start = max(0, len(self.frames) - in_window)
        older = [self.frames[place] for place in stride_places(start, self.method.memory_frames)]
        return newest_within([*older, *self.frames[start:]], self.room)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Frames and their number."""
        tensors, about = super().state()
        return tensors, about | {"written": self.written}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        super().restore(tensors, about)
        self.written = int(about["written"])
