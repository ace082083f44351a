"""TimeChat-Online's memory: the newest of the visual tokens that differ from the frame before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from streamprune.cache.feature_memory import FeatureMethod, FrameQueue
from streamprune.cache.memory import Description, Room
from streamprune.checks import check_count


@dataclass(frozen=True, kw_only=True)
class TimeChatOnlineMemory(FeatureMethod):
    """First in, first out, behind the differential token drop, which the recipe's pre_llm stage does.

    Args:
        max_tokens: of the queue, with the text before each frame.

    Source: arXiv 2504.17343. The paper has a queue of 6K tokens; the released demo keeps every token.
    """

    max_tokens: int = 6000

    pre_llm_default: ClassVar = "timechat_online"
    pre_llm_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"threshold": 0.25})

    def __post_init__(self) -> None:
        check_count("max_tokens", self.max_tokens)

    def context_tokens(self, room: Room) -> int:
        """The queue, or what the model is to see at once, if that is less."""
        return min(self.max_tokens, room.context_tokens)

    def begin(self, room: Room) -> FrameQueue:
        """As the base class says."""
        self.check_room(room)
        return FrameQueue(room, self.context_tokens(room))

    def describe(self) -> Description:
        """The queue and its reducer."""
        return Description(
            "arXiv 2504.17343",
            (
                "Tokens whose cosine with their place one frame earlier is above 0.25 are dropped.",
                f"The newest {self.max_tokens} tokens are kept, first in, first out, each at its place in "
                "its frame.",
            ),
            (
                "Whole frames leave the queue, so that it is at most one frame short.",
                "Frames without tokens leave no gap in the positions.",
                "The queue is no longer than the context the model is known to work with, and the bytes.",
                "The drop ratio triggers no answers; watch() with on_novelty does that.",
                "Weights are those of the loaded model, not the ones fine-tuned with the drop.",
            ),
        )
