"""STC's memory of a stream: that of ReKV, behind a tower that reuses and a reducer that keeps what is new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from streamprune.cache.memory import Description
from streamprune.cache.rekv import ReKV

# of a frame's tokens so many stay before the language model
_KEPT, _OF = 60, 196


@dataclass(frozen=True, kw_only=True)
class STCMemory(ReKV):
    """ReKV, with STC's parts in the vision tower and before the language model where a recipe names none.

    Args:
        window_tokens, topk, chunk_size, gaps, max_gap_frames: as of ReKV.

    Source: arXiv 2512.00891, whose released streams are held by ReKV (arXiv 2503.00540).
    """

    encoder_default: ClassVar[str | None] = "stc"
    pre_llm_default: ClassVar[str | None] = "stc"
    pre_llm_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"keep_ratio": _KEPT / _OF})

    def describe(self) -> Description:
        """ReKV's, with the two parts."""
        host = ReKV.describe(self)
        return Description(
            "arXiv 2512.00891",
            (
                "the tower computes a quarter of a frame's tokens anew in every layer, and every second "
                "frame in full",
                f"{_KEPT} of {_OF} tokens of every frame go on to the language model, the most novel ones",
                *host.reproduces,
            ),
            (
                "kept tokens stay at their places in the frame; the release numbers them anew",
                *host.differs,
            ),
        )
