"""Token pruning, merging and caching for video language models on stock Hugging Face transformers.

The public names below are imported when first used, so that ``import streamprune`` stays instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamprune import readers
    from streamprune.budget import Budget
    from streamprune.errors import StreampruneError
    from streamprune.pipelines.accelerate import accelerate
    from streamprune.pipelines.chat import Chat
    from streamprune.pipelines.live import LiveStream
    from streamprune.pipelines.offline import Answer, Stats, VideoLLM, load
    from streamprune.pipelines.together import Videos
    from streamprune.positions import Positions
    from streamprune.recipe import Recipe
    from streamprune.reduce import reduce_batch, reduce_tokens
    from streamprune.registry import MethodInfo, list_methods, register_method, unregister_method
    from streamprune.tokens import Reduction, VideoGrid, VisualTokens

__version__ = "0.1.0"

_HOME = {
    "Answer": "streamprune.pipelines.offline",
    "Budget": "streamprune.budget",
    "Chat": "streamprune.pipelines.chat",
    "LiveStream": "streamprune.pipelines.live",
    "MethodInfo": "streamprune.registry",
    "Positions": "streamprune.positions",
    "Recipe": "streamprune.recipe",
    "Reduction": "streamprune.tokens",
    "Stats": "streamprune.pipelines.offline",
    "StreampruneError": "streamprune.errors",
    "VideoGrid": "streamprune.tokens",
    "VideoLLM": "streamprune.pipelines.offline",
    "Videos": "streamprune.pipelines.together",
    "VisualTokens": "streamprune.tokens",
    "accelerate": "streamprune.pipelines.accelerate",
    "list_methods": "streamprune.registry",
    "load": "streamprune.pipelines.offline",
    "readers": "",
    "reduce_batch": "streamprune.reduce",
    "reduce_tokens": "streamprune.reduce",
    "register_method": "streamprune.registry",
    "unregister_method": "streamprune.registry",
}

__all__ = [
    "Answer",
    "Budget",
    "Chat",
    "LiveStream",
    "MethodInfo",
    "Positions",
    "Recipe",
    "Reduction",
    "Stats",
    "StreampruneError",
    "VideoGrid",
    "VideoLLM",
    "Videos",
    "VisualTokens",
    "accelerate",
    "list_methods",
    "load",
    "readers",
    "reduce_batch",
    "reduce_tokens",
    "register_method",
    "unregister_method",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'streamprune' has no attribute {name!r}")
    home = _HOME[name]
    value = (
        getattr(importlib.import_module(home), name)
        if home
        else importlib.import_module(f"streamprune.{name}")
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
