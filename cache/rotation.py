"""Keys as they were before a model turned them by their positions, and back again."""

from __future__ import annotations

from inspect import signature
from typing import Any, TypeAlias

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.kv.store import computed
from streamprune.ops.rotary import rotate

# cosines and sines
Tables: TypeAlias = tuple[torch.Tensor, torch.Tensor]


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
        what: that needs them, for the error.
    """

    def __init__(self, rotary: Any, what: str = "a store with unrotated=True") -> None:
        _check_steady(rotary, what)
        self._rotary = rotary

    def tables(self, places: torch.Tensor) -> Tables:
        """Cosines and sines (rows, heads, entries, width) of ``places`` (axes, rows, heads, entries)."""
        axes, rows, heads, entries = places.shape
        ids = places.reshape(axes, rows * heads, entries).long()
        # the module takes no more from what it is given than its type and device
        like = torch.empty(0, device=places.device)
        # past its hooks: nobody is to hear of these positions
        cos, sin = self._rotary.forward(like, ids[0] if axes == 1 else ids)
        return cos.reshape(rows, heads, entries, -1), sin.reshape(rows, heads, entries, -1)

    def turned_by(self, keys: torch.Tensor, tables: Tables, *, back: bool = False) -> torch.Tensor:
        """``keys`` (rows, heads, entries, dim) turned by ``tables``, or ``back``."""
        wide = computed(keys)
        cos, sin = (table.to(wide) for table in tables)
        if back:
            # a model may scale what it turns
            scale = float(getattr(self._rotary, "attention_scaling", 1.0)) ** -2
            cos, sin = cos * scale, -sin * scale
        width = cos.shape[-1]
        turned = torch.cat([rotate(wide[..., :width], cos, sin), wide[..., width:]], -1)
        return turned.to(keys.dtype)

    def turned(self, keys: torch.Tensor, places: torch.Tensor, *, back: bool = False) -> torch.Tensor:
        """``keys`` (rows, heads, entries, dim) turned to their places, or ``back`` from them.

        Args:
            places: (axes, rows, heads, entries) positions.
        """
        return self.turned_by(keys, self.tables(places.to(keys.device)), back=back)
