"""Queries and keys of one decoder layer, made once more from the states that entered it.

The layer keeps its own fast attention; what a method wants to know costs a few projected rows.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from streamprune.errors import InvalidValueError, UnsupportedModelError
from streamprune.in_llm.base import LayerProjections
from streamprune.ops.projections import heads_of
from streamprune.ops.rotary import rotate

# cosines and sines of the positions, (rows, head width) each
Tables = tuple[torch.Tensor, torch.Tensor]


class DecoderProjections(LayerProjections):
    """The projections of a stock decoder layer for the rows of one prompt.

    Args:
        layer: the decoder layer.
        states: (rows, width) what enters it.
        tables: of the rows' positions.
        device: where the answers go.
    """

    def __init__(self, layer: Any, states: torch.Tensor, tables: Tables, device: torch.device) -> None:
        self._device = device
        self._layer = layer
        self._attention = layer.self_attn
        self._states = states
        self._tables = tables
        self.scaling = float(self._attention.scaling)

    @cached_property
    def _normed(self) -> torch.Tensor:
        weight = self._attention.k_proj.weight
        with torch.no_grad():
            normed: torch.Tensor = self._layer.input_layernorm(self._states.to(weight.device))
        return normed

    def normed(self) -> torch.Tensor:
        """See the base class."""
        return self._normed.to(self._device)

    def queries(self, rows: torch.Tensor, *, rotated: bool = True) -> torch.Tensor:
        """See the base class."""
        rows = rows.to(self._normed.device)
        projected = heads_of(self._attention, "q", self._normed[rows])
        asked = self._rotated(projected, rows) if rotated else projected.transpose(0, 1)
        return asked.to(self._device)

    def keys(self, *, rotated: bool = True) -> torch.Tensor:
        """See the base class."""
        asked = self._rotated_keys if rotated else self._plain_keys.transpose(0, 1)
        return asked.to(self._device)

    def values(self) -> torch.Tensor:
        """See the base class."""
        return heads_of(self._attention, "v", self._normed).transpose(0, 1).to(self._device)

    @cached_property
    def _plain_keys(self) -> torch.Tensor:
        return heads_of(self._attention, "k", self._normed)

    @cached_property
    def _rotated_keys(self) -> torch.Tensor:
        rows = torch.arange(len(self._normed), device=self._normed.device)
        return self._rotated(self._plain_keys, rows)

    def _rotated(self, projected: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        cos, sin = (table.to(rows.device)[rows, None].float() for table in self._tables)
        return rotate(projected, cos, sin).transpose(0, 1)


class _NothingBelow(LayerProjections):
    """What is below layer 0."""

    def _refuse(self) -> torch.Tensor:
        raise InvalidValueError(
            "an in_llm method asked for the attention of the layer below layer 0; there is none, so it can "
            "act from layer 1 on only"
        )

    def queries(self, rows: torch.Tensor, *, rotated: bool = True) -> torch.Tensor:
        """Raises InvalidValueError."""
        return self._refuse()

    def keys(self, *, rotated: bool = True) -> torch.Tensor:
        """Raises InvalidValueError."""
        return self._refuse()

    def normed(self) -> torch.Tensor:
        """Raises InvalidValueError."""
        return self._refuse()


NOTHING_BELOW = _NothingBelow()


def check_projections(layer: Any, name: str) -> None:
    """Raise UnsupportedModelError unless a decoder layer has the parts that are read here."""
    attention = getattr(layer, "self_attn", None)
    missing = [part for part in ("q_proj", "k_proj", "head_dim", "scaling") if not hasattr(attention, part)]
    if missing or not hasattr(layer, "input_layernorm"):
        raise UnsupportedModelError(
            f"{name}: decoder layers of the kind {type(layer).__name__} are unknown; an in_llm method reads "
            "input_layernorm and self_attn's q_proj, k_proj, head_dim and scaling"
        )
