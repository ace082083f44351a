"""Which implementations of attention this installation can run."""

from __future__ import annotations

from streamprune.models.loading import ATTENTION
from streamprune.models.torchvision_guard import hide_broken_torchvision


def usable_attention() -> tuple[str, ...]:
    """Those of ``attn_implementation`` that could be chosen, in the order of ATTENTION."""
    hide_broken_torchvision()
    from transformers.utils import (
        is_flash_attn_2_available,
        is_flash_attn_3_available,
        is_torch_flex_attn_available,
    )

    there = {
        "eager": True,
        "sdpa": True,
        "flash_attention_2": is_flash_attn_2_available(),
        "flash_attention_3": is_flash_attn_3_available(),
        "flex_attention": is_torch_flex_attn_available(),
    }
    return tuple(name for name in ATTENTION if there[name])
