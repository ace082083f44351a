"""Where things are in a vision tower of the SigLIP and CLIP kind: layers, heads, summary token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class TowerLayout:
    """A tower whose layers attend with ``q_proj``, ``k_proj`` and ``v_proj`` over a whole frame.

    Attributes:
        layers: its transformer layers, first to last; none when they are of another kind.
        feeding: index of the layer whose output the projector reads.
        summary: whether each frame's first token is a summary ([CLS]) that stands for no patch.
        patches: tokens of one frame, the summary not counted.
        mean_query: whether the mean query of a frame stands in for that of a summary, where there is none and
            nothing better.
    """

    layers: Sequence[nn.Module]
    feeding: int
    summary: bool
    patches: int
    mean_query: bool = False

    @classmethod
    def of_llava(cls, tower: nn.Module, config: Any) -> TowerLayout:
        """Read off a LLaVA-type ``config``; of several feature layers the last one counts."""
        vision, chosen = config.vision_config, config.vision_feature_layer
        layers = _find_layers(tower)
        state = chosen if isinstance(chosen, int) else chosen[-1]
        # hidden state 0 is the embeddings: state n is what layer n - 1 puts out
        state += len(layers) + 1 if state < 0 else 0
        side = int(vision.image_size) // int(vision.patch_size)
        summary = config.vision_feature_select_strategy == "default"
        return cls(layers, max(0, state - 1), summary, side * side)

    @classmethod
    def of_internvl(cls, tower: nn.Module, config: Any, patches: int) -> TowerLayout:
        """Read off an InternVL ``config``; ``patches`` are those of one frame."""
        layers, state = _find_layers(tower), int(config.vision_feature_layer)
        state += len(layers) + 1 if state < 0 else 0
        return cls(layers, max(0, state - 1), config.vision_feature_select_strategy == "default", patches)

    @classmethod
    def of_smolvlm(cls, tower: nn.Module, patches: int) -> TowerLayout:
        """The last layer feeds the projector; ``patches`` are those of one frame."""
        layers = _find_layers(tower)
        return cls(layers, max(0, len(layers) - 1), False, patches, mean_query=True)

    def attention(self, layer: int) -> nn.Module:
        """The attention module of one layer."""
        module = _attention_of(self.layers[layer])
        assert module is not None  # _find_layers took no others
        return module

    @property
    def middle(self) -> int:
        """A layer halfway to the feeding one."""
        return self.feeding // 2

    @property
    def shallow(self) -> int:
        """A layer a quarter of the way to the feeding one."""
        return self.feeding // 4


class AttentionRows(Protocol):
    """Queries, keys and values of one layer, as the scores of a layer read them."""

    def queries(self) -> torch.Tensor:
        """(frames, heads, tokens, head width), a summary token first."""

    def keys(self) -> torch.Tensor:
        """The same of the keys."""

    def values(self) -> torch.Tensor:
        """The same of the values."""

    @property
    def scaling(self) -> float:
        """Factor of the inner products between queries and keys."""

    @property
    def summary(self) -> bool:
        """Whether the first token of a frame is a summary."""

    def of_patches(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` (frames, tokens, ...) without the summary token."""

    def summary_row(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, heads, 1, head width): the summary token's row, or what stands in for it."""


@dataclass(frozen=True)
class LayerRows:
    """Queries, keys and values of one layer, each (frames, heads, tokens, head width).

    Made again from what goes into the attention: the layer's own projections of its normalised input.
    """

    attention: nn.Module
    states: torch.Tensor
    summary: bool

    def queries(self) -> torch.Tensor:
        """Every token's query, the summary's included."""
        return self._project("q_proj")

    def keys(self) -> torch.Tensor:
        """Every token's key, the summary's included."""
        return self._project("k_proj")

    def values(self) -> torch.Tensor:
        """Every token's value, the summary's included."""
        return self._project("v_proj")

    @property
    def scaling(self) -> float:
        """Factor of the inner products between queries and keys."""
        return float(self.attention.scale)  # type: ignore[arg-type]

    def of_patches(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` (frames, tokens, ...) without the summary token."""
        return values[:, 1:] if self.summary else values

    def summary_row(self, rows: torch.Tensor) -> torch.Tensor:
        """(frames, heads, 1, head width): the summary token's row, or the mean of all without one."""
        return rows[:, :, :1] if self.summary else rows.float().mean(2, keepdim=True)

    def _project(self, name: str) -> torch.Tensor:
        rows: torch.Tensor = getattr(self.attention, name)(self.states)
        norm = getattr(self.attention, name.replace("proj", "norm"), None)
        if norm is not None:  # some towers normalise queries and keys, all heads together
            rows = norm(rows)
        frames, tokens, _ = rows.shape
        heads = int(self.attention.num_heads)  # type: ignore[arg-type]
        return rows.reshape(frames, tokens, heads, -1).transpose(1, 2)


def _find_layers(tower: nn.Module) -> Sequence[nn.Module]:
    """The layers under ``encoder.layers``, wherever a release of transformers nests them; [] without any."""
    for name, module in tower.named_modules():
        if name.split(".")[-2:] in (["encoder", "layers"], ["encoder", "layer"]):
            layers = list(module.children())
            if all(_attention_of(layer) is not None for layer in layers):
                return layers
    return []


def _attention_of(layer: nn.Module) -> nn.Module | None:
    """The module of ``layer`` that attends with ``q_proj`` and its like."""
    for name in ("self_attn", "attention"):
        module = getattr(layer, name, None)
        if isinstance(module, nn.Module) and hasattr(module, "q_proj"):
            return module
    return None
