"""A small stock tower with weights sharp enough to look somewhere, and the same tower in numpy float64."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from streamprune.encoder.base import EncoderMethod, TowerShape
from streamprune.models.vision_layers import TowerRun, VisionLayers

Array = npt.NDArray[np.float64]

SIDE, DEPTH, WIDTH, HEADS = 6, 4, 16, 4
SHAPE = TowerShape(DEPTH, SIDE, SIDE)


@cache
def tower() -> Any:
    """4 layers of width 16 over 6 x 6 patches."""
    torch.manual_seed(7)
    config = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=4 * SIDE,
        patch_size=4,
        vision_use_head=False,
    )
    model = SiglipVisionModel(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.normal_(std=1.5 / weight.shape[1] ** 0.5)
            elif name.endswith("weight") and weight.ndim == 2:
                weight.normal_(std=1.0 / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
    return model


def pixels(frames: int = 4, *, seed: int = 0, drift: float = 0.3) -> torch.Tensor:
    """Frames of one scene that change slowly."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(1, 3, 4 * SIDE, 4 * SIDE, generator=generator)
    change = torch.randn(frames, 3, 4 * SIDE, 4 * SIDE, generator=generator)
    return scene + drift * change.cumsum(0)


@torch.no_grad()
def stock(frames: torch.Tensor) -> torch.Tensor:
    """What the stock tower's last layer puts out."""
    out: torch.Tensor = tower()(frames, output_hidden_states=True).hidden_states[-1]
    return out


@torch.no_grad()
def run(method: EncoderMethod, frames: torch.Tensor, model: Any = None) -> TowerRun:
    """The same with a method inside."""
    layers = VisionLayers(tower() if model is None else model, "small")
    return layers.run(frames, method, (DEPTH,), SIDE)


class NumpyTower:
    """The layers of :func:`tower`, written out for one frame of (tokens, width)."""

    def __init__(self) -> None:
        self.weights = {name: np.asarray(w.detach(), np.float64) for name, w in tower().named_parameters()}

    @torch.no_grad()
    def begin(self, frame: torch.Tensor) -> Array:
        """States before the first layer."""
        return np.asarray(tower().embeddings(frame[None])[0], np.float64)

    def attend(
        self, layer: int, states: Array, bias: Array | None = None
    ) -> tuple[Array, tuple[Array, Array, Array], Array]:
        """States after the attention, its queries, keys and values (heads, tokens, dim), and its map."""
        normed = self._norm(layer, "layer_norm1", states)
        q, k, v = (
            self._linear(layer, f"self_attn.{name}_proj", normed).reshape(-1, HEADS, WIDTH // HEADS)
            for name in "qkv"
        )
        q, k, v = (part.transpose(1, 0, 2) for part in (q, k, v))
        logits = q @ k.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS)
        attention = softmax(logits if bias is None else logits + bias)
        mixed = (attention @ v).transpose(1, 0, 2).reshape(-1, WIDTH)
        return states + self._linear(layer, "self_attn.out_proj", mixed), (q, k, v), attention

    def feed(self, layer: int, states: Array) -> Array:
        """States after the feed-forward part."""
        inner = self._linear(layer, "mlp.fc1", self._norm(layer, "layer_norm2", states))
        gelu = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        return states + self._linear(layer, "mlp.fc2", gelu)

    def _linear(self, layer: int, name: str, states: Array) -> Array:
        prefix = f"encoder.layers.{layer}.{name}"
        out: Array = states @ self.weights[f"{prefix}.weight"].T + self.weights[f"{prefix}.bias"]
        return out

    def _norm(self, layer: int, name: str, states: Array) -> Array:
        prefix = f"encoder.layers.{layer}.{name}"
        centred = states - states.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        out: Array = scaled * self.weights[f"{prefix}.weight"] + self.weights[f"{prefix}.bias"]
        return out


def softmax(logits: Array) -> Array:
    """Along the last axis."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    out: Array = raised / raised.sum(-1, keepdims=True)
    return out


def unit(rows: Array) -> Array:
    """Rows of length 1."""
    out: Array = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
    return out


def cosine_to_kept(states: Array, kept: list[int]) -> list[int]:
    """For every token the place in ``kept`` that it is read back from."""
    similarity = unit(states) @ unit(states[kept]).T
    return [kept.index(t) if t in kept else int(similarity[t].argmax()) for t in range(len(states))]
