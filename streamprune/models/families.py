"""Which model families there are: ``model_type`` -> the module of this folder that knows it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from streamprune.errors import UnknownNameError, UnsupportedModelError

if TYPE_CHECKING:
    from streamprune.models.base import VideoFamily

FAMILIES: dict[str, str] = {
    "internvl": "streamprune.models.internvl",
    "llava_next_video": "streamprune.models.llava_next_video",
    "llava_onevision": "streamprune.models.llava_onevision",
    "minicpmv4_6": "streamprune.models.minicpmv4_6",
    "qwen2_5_omni": "streamprune.models.qwen2_5_omni",
    "qwen2_5_vl": "streamprune.models.qwen2_5_vl",
    "qwen2_vl": "streamprune.models.qwen2_vl",
    "qwen3_5": "streamprune.models.qwen3_5",
    "qwen3_vl": "streamprune.models.qwen3_vl",
    "smolvlm": "streamprune.models.smolvlm",
    "video_llama_3": "streamprune.models.video_llama_3",
}

# what the config of a part that was saved alone calls itself
_PARTS = {"qwen2_5_omni_thinker": "qwen2_5_omni"}


def check_family(model_type: object) -> None:
    """Raise UnknownNameError unless ``model_type`` is one of the families."""
    if model_type not in FAMILIES:
        raise UnknownNameError.among("model family", model_type, list(FAMILIES))


def family_class(model_type: str | None, name: str) -> type[VideoFamily]:
    """The family of ``model_type``; UnsupportedModelError says which there are and how to add one.

    ``name`` is the model the user asked for.
    """
    model_type = _PARTS.get(model_type or "", model_type)
    if model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"the model {name!r} is of the family {model_type!r}, which is not supported. Supported: "
            f"{', '.join(sorted(FAMILIES))}. To add one, subclass streamprune.models.base.VideoFamily in "
            "streamprune/models/<model_type>.py and list it in streamprune/models/families.py; see 'Add a "
            "model family' in CONTRIBUTING.md."
        )
    family: type[VideoFamily] = importlib.import_module(FAMILIES[model_type]).FAMILY
    return family
