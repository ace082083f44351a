"""One layer of a stock vision tower in the two halves every kind has, whatever its modules are called."""

from __future__ import annotations

from typing import Any, ClassVar

import torch


class PlainLayer:
    """A layer of the SigLIP and CLIP kind: a norm before each half, what a half gives is added.

    Args:
        layer: the stock module.
    """

    parts: ClassVar[tuple[str, ...]] = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
    # modules of the attention that give what its queries, keys and values are made of
    projections: ClassVar[dict[str, str]] = {"queries": "q_proj", "keys": "k_proj", "values": "v_proj"}

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    @classmethod
    def fits(cls, layer: Any) -> bool:
        """Whether ``layer`` has the parts of this kind."""
        attention = getattr(layer, cls.parts[1], None)
        return all(hasattr(layer, part) for part in cls.parts) and all(
            hasattr(attention, name) for name in cls.projections.values()
        )

    @property
    def attention(self) -> Any:
        """The attention module."""
        return getattr(self._layer, self.parts[1])

    def whole(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(frames, tokens, width) through both halves; ``mask`` (frames, 1, 1, tokens) is added to logits."""
        out: torch.Tensor = self._layer(states, mask)
        return out

    def attend(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The first half."""
        attended, _ = self.attention(self._layer.layer_norm1(states), attention_mask=mask)
        out: torch.Tensor = states + attended
        return out

    def feed(self, states: torch.Tensor) -> torch.Tensor:
        """The second half."""
        out: torch.Tensor = states + self._layer.mlp(self._layer.layer_norm2(states))
        return out


class ScaledLayer(PlainLayer):
    """A layer of InternVL: what a half gives is scaled channel by channel, queries and keys may be normed.

    The stock layer takes no mask, so that with one its halves are run one after the other.
    """

    parts: ClassVar[tuple[str, ...]] = (
        "layernorm_before", "attention", "layernorm_after", "mlp", "lambda_1", "lambda_2", "dropout",
    )  # fmt: skip
    projections: ClassVar[dict[str, str]] = {"queries": "q_norm", "keys": "k_norm", "values": "v_proj"}

    def whole(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """As :meth:`PlainLayer.whole`."""
        if mask is not None:
            return self.feed(self.attend(states, mask))
        out: torch.Tensor = self._layer(states)
        return out

    def attend(self, states: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The first half, scaled."""
        layer = self._layer
        attended, _ = layer.attention(layer.layernorm_before(states), attention_mask=mask)
        out: torch.Tensor = layer.lambda_1 * attended + states
        return out

    def feed(self, states: torch.Tensor) -> torch.Tensor:
        """The second half, scaled."""
        layer = self._layer
        out: torch.Tensor = layer.lambda_2 * layer.dropout(layer.mlp(layer.layernorm_after(states))) + states
        return out


def layers_of(tower: Any) -> list[PlainLayer]:
    """The layers of ``tower`` from the first; none where they are of no known kind."""
    encoder = getattr(tower, "encoder", None)
    for name, kind in (("layers", PlainLayer), ("layer", ScaledLayer)):
        layers = list(getattr(encoder, name, ()))
        if layers and all(kind.fits(layer) for layer in layers):
            return [kind(layer) for layer in layers]
    return []
