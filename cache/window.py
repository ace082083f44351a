"""The newest seconds of a stream and nothing else: what every memory has to beat."""

from __future__ import annotations

from dataclasses import dataclass

from streamprune.cache.feature_memory import FeatureMethod, FrameQueue
from streamprune.cache.memory import Description, Room
from streamprune.checks import check_count
from streamprune.errors import InvalidValueError


@dataclass(frozen=True, kw_only=True)
class Window(FeatureMethod):
    """Remember the newest frames whole, as many as the model is to see at once, or fewer.

    Args:
        tokens: at most so many, with the text before each frame; None: what the model is to see at once.
        seconds: at most so far back, positive; None: as far as the tokens reach.
    """

    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is not None:
            check_count("tokens", self.tokens)
        if self.seconds is not None and not self.seconds > 0:
            raise InvalidValueError(f"seconds must be positive, got {self.seconds}")

    def context_tokens(self, room: Room) -> int:
        """``tokens``, or what the model is to see."""
        return room.context_tokens if self.tokens is None else min(self.tokens, room.context_tokens)

    def begin(self, room: Room) -> FrameQueue:
        """As the base class says."""
        self.check_room(room)
        return FrameQueue(room, self.context_tokens(room), self.seconds)

    def describe(self) -> Description:
        """A baseline."""
        return Description("baseline", ("The newest frames, read anew for every answer; nothing older.",))
