"""Running a stock vision tower layer by layer, with an encoder method deciding what goes on.

The layers are the model's own modules; nothing in them is replaced. What a method wants to see of a layer is
caught by hooks that live as long as that one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from streamprune.encoder.base import EncoderMethod, LayerInput, LayerSignals, TowerShape
from streamprune.encoder.token_map import TokenMap, read_back
from streamprune.errors import UnsupportedModelError

_PARTS = ("layer_norm1", "self_attn", "layer_norm2", "mlp")
_PROJECTIONS = {"queries": "q_proj", "keys": "k_proj", "values": "v_proj"}
# kernels that take a logit for each key
_BIASED_ATTENTION = ("sdpa", "eager")


@dataclass(frozen=True)
class TowerRun:
    """What came out of a tower.

    Attributes:
        states: at each wanted depth (frames, patches, width), read back to all patches.
        tokens: for each layer the number of tokens, over all frames, that entered it.
    """

    states: tuple[torch.Tensor, ...] = field(repr=False)
    tokens: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of a plain tower's tokens that was computed, over all layers."""
        frames, patches = self.states[0].shape[:2]
        return sum(self.tokens) / (frames * patches * max(1, len(self.tokens)))


class VisionLayers:
    """The layers of a SigLIP-type tower: patches only, one grid per frame, norms before each part.

    Args:
        tower: a stock vision model.
        name: of the model, for messages.
        embed: what makes patches of pictures, the tower's ``embeddings`` when None.
    """

    def __init__(
        self, tower: Any, name: str, embed: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        layers = getattr(getattr(tower, "encoder", None), "layers", None)
        embeddings = getattr(tower, "embeddings", None)
        fits = (
            layers is not None
            and all(hasattr(layer, part) for layer in layers for part in _PARTS)
            and all(hasattr(layers[0].self_attn, part) for part in _PROJECTIONS.values())
            and not hasattr(embeddings, "class_embedding")
        )
        if not fits:
            raise UnsupportedModelError(
                f"encoder methods run in SigLIP towers; {name!r} has a {type(tower).__name__}. "
                "Leave out the encoder stage."
            )
        self._tower = tower
        self._embed: Any = embeddings if embed is None else embed
        self._layers: Any = layers
        self._name = name

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self._layers)

    def check(self, method: EncoderMethod, shape: TowerShape) -> None:
        """Raise UnsupportedModelError or InvalidValueError where ``method`` cannot run in this tower."""
        method.acting_layers(shape)
        kernel = self._tower.config._attn_implementation
        if method.weighs_keys and kernel not in _BIASED_ATTENTION:
            raise UnsupportedModelError(
                f"proportional attention needs attn_implementation 'sdpa' or 'eager', {self._name!r} was "
                f"loaded with {kernel!r}; load it with one of those or set proportional to false"
            )

    def run(self, pixels: torch.Tensor, method: EncoderMethod, depths: Sequence[int], cols: int) -> TowerRun:
        """Run frames through the layers.

        Args:
            pixels: (frames, 3, rows, cols).
            method: decides in its layers.
            depths: wanted states, each the number of layers before it, at least 0.
            cols: patches in a row of the grid.
        """
        states = self._embed(pixels)
        shape = TowerShape(max(depths), states.shape[1] // cols, cols)
        self.check(method, shape)
        if method.frame_by_frame and not method.changes_nothing(shape):
            runs = [self._run(frame, method, depths, shape) for frame in states.split(1)]
        else:
            runs = [self._run(states, method, depths, shape)]
        if len(runs) == 1:
            return runs[0]
        together = zip(*(run.states for run in runs), strict=True)
        tokens = zip(*(run.tokens for run in runs), strict=True)
        return TowerRun(tuple(torch.cat(frames) for frames in together), tuple(map(sum, tokens)))

    def _run(
        self, states: torch.Tensor, method: EncoderMethod, depths: Sequence[int], shape: TowerShape
    ) -> TowerRun:
        climb = _Climb(method, shape, states)
        reached = {0: states}
        tokens = []
        for number in range(shape.depth):
            tokens.append(climb.states.shape[0] * climb.states.shape[1])
            climb.through(number, self._layers[number])
            if number + 1 in depths:
                reached[number + 1] = read_back(climb.steps, climb.states)
        return TowerRun(tuple(reached[depth] for depth in depths), tuple(tokens))


class _Climb:
    """Where one run stands between two layers."""

    def __init__(self, method: EncoderMethod, shape: TowerShape, states: torch.Tensor) -> None:
        self.method = method
        self.shape = shape
        self.states = states
        self.size: torch.Tensor | None = None
        self.steps: list[TokenMap] = []
        self._acting = method.acting_layers(shape)
        self._origin = torch.arange(shape.tokens, device=states.device).expand(len(states), -1)
        self._carried = method.begin(states, shape)

    def through(self, number: int, layer: Any) -> None:
        """Go through ``layer``, with a decision inside or after it where the method acts."""
        bias = self.size.log() if self.size is not None and self.method.weighs_keys else None
        mask = None if bias is None else bias[:, None, None].to(self.states.dtype)
        if number not in self._acting:
            self.states = layer(self.states, mask)
            return
        attention = layer.self_attn
        with _caught(attention, self.method.needs) as caught:
            if self.method.place == "after":
                self.states = layer(self.states, mask)
            else:
                attended, _ = attention(layer.layer_norm1(self.states), attention_mask=mask)
                self.states = self.states + attended
        projections = {name: _by_head(value, attention.num_heads) for name, value in caught.items()}
        self._decide(number, LayerSignals(**projections, scaling=attention.scale, bias=bias))
        if self.method.place == "inside":
            self.states = self.states + layer.mlp(layer.layer_norm2(self.states))

    def _decide(self, number: int, signals: LayerSignals) -> None:
        found = LayerInput(self.shape, number, self.states, self.size, self._origin, signals, self._carried)
        decision = self.method.reduce_layer(found)
        self._carried = decision.carried
        if decision.step is not None:
            self.steps.append(decision.step)
            self.states = decision.step.apply(self.states)
            self._origin = self._origin.flatten()[decision.step.index]
            self.size = decision.size


@contextmanager
def _caught(attention: Any, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Catch the outputs of the projections ``names`` while the attention runs; leaves no hook behind."""
    found: dict[str, torch.Tensor] = {}
    handles = []
    for name in names:

        def keep(module: Any, given: Any, output: torch.Tensor, name: str = name) -> None:
            found[name] = output

        handles.append(getattr(attention, _PROJECTIONS[name]).register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _by_head(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(frames, tokens, width) -> (frames, heads, tokens, dim)."""
    frames, tokens, width = projected.shape
    return projected.reshape(frames, tokens, heads, width // heads).transpose(1, 2)
