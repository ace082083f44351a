"""What a stream really does: its settings, who may hold how much, and how its memory relates to what was
published."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

from streamprune.cache.block import block_bytes
from streamprune.cache.memory import Room
from streamprune.models.base import VideoFamily
from streamprune.pipelines.live_options import StreamOptions
from streamprune.pipelines.live_plan import Plan
from streamprune.registry import list_methods


def described(family: VideoFamily, options: StreamOptions, plan: Plan) -> dict[str, Any]:
    """The settings in effect, as plain values ready for JSON."""
    memory, room = options.memory, plan.room
    told = memory.describe()
    return {
        "model": family.checkpoint.name,
        "family": family.model_type,
        "recipe": options.recipe.name,
        "stages": {
            stage: {"method": choice.method, **choice.options}
            for stage, choice in options.recipe.stages.items()
        },
        "keep_ratio": options.recipe.budget.keep_ratio,
        "keep_tokens": options.recipe.budget.keep_tokens,
        "bucket": options.bucket,
        "fps": None if options.fps is None else float(options.fps),
        "gate": None if options.gate is None else dict(options.gate),
        "memory": {
            "name": memory_name(options),
            "kind": memory.kind,
            "options": _plain(memory),
            "source": told.source,
            "reproduces": list(told.reproduces),
            "differs": list(told.differs),
        },
        "memory_bytes": options.memory_bytes,
        "bytes": dict(plan.parts),
        "tokens_per_frame": room.tokens_per_frame,
        "context_tokens": memory.context_tokens(room),
        "answer_tokens": options.answer_tokens,
        "whole_frames": whole_frames(room, memory.kind),
        "spill_folder": None if options.spill_folder is None else str(options.spill_folder),
        "spill_bytes": options.spill_bytes,
    }


def memory_name(options: StreamOptions) -> str:
    """The name of the memory, or that of its class when it is not registered."""
    kind = type(options.memory)
    return next((row.name for row in list_methods("memory") if row.load() is kind), kind.__name__)


def whole_frames(room: Room, kind: str) -> int:
    """Frames with all their tokens, as the model made them, that fit into the memory: from the next one on it
    has to forget, or to hold some in less room."""
    if kind == "features":
        return room.memory_bytes // (room.tokens_per_frame * (room.feature_bytes + 8))
    return room.memory_bytes // block_bytes(room.shape, room.tokens_per_frame + room.header_tokens)


def _plain(memory: object) -> dict[str, Any]:
    found = asdict(memory) if is_dataclass(memory) and not isinstance(memory, type) else {}
    return {
        name: value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)
        for name, value in found.items()
    }
