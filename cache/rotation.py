"""Keys as they were before a model turned them by their positions, and back again."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.kv.store import computed
from streamprune.ops.rotary import rotate


def _check_steady(rotary: Any, what: str) -> None:
    """UnsupportedModelError where the angle of a position depends on the sequence's length or the layer."""
    if "layer_type" in signature(rotary.forward).parameters:
        raise UnsupportedModelError(
            f"{what} needs one rotation for all layers; {type(rotary).__name__} has several"
        )
    kind = str(getattr(rotary, "rope_type", "default"))
    if "dynamic" in kind or kind == "longrope":
        raise UnsupportedModelError(
            f"{what} needs rotations that stay the same while a sequence grows; {type(rotary).__name__} of "
            f"type {kind!r} changes them"
        )


class Rotation:
    """The rotary positions of one model, along one axis or several.

    Args:
        rotary: its module that makes tables of cosines and sines.
    """

    def __init__(self, rotary: Any) -> None:
        _check_steady(rotary, "a store with unrotated=True")
        self._rotary = rotary

    def turned(self, keys: torch.Tensor, places: torch.Tensor, *, back: bool = False) -> torch.Tensor:
        """``keys`` (rows, heads, entries, dim) turned to their places, or ``back`` from them.

        Args:
            places: (axes, rows, heads, entries) positions.
        """
        axes, rows, heads, entries = places.shape
        ids = places.reshape(axes, rows * heads, entries).long()
        wide = computed(keys)
        # past its hooks: nobody is to hear of these positions
        cos, sin = self._rotary.forward(wide, ids[0] if axes == 1 else ids)
        cos, sin = (table.to(wide.dtype).reshape(rows, heads, entries, -1) for table in (cos, sin))
        if back:
            # a model may scale what it turns
            scale = float(getattr(self._rotary, "attention_scaling", 1.0)) ** -2
            cos, sin = cos * scale, -sin * scale
        width = cos.shape[-1]
        turned = torch.cat([rotate(wide[..., :width], cos, sin), wide[..., width:]], -1)
        return turned.to(keys.dtype)
