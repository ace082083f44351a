"""Running a stock vision tower layer by layer, with an encoder method deciding what goes on.

The layers are the model's own modules; nothing in them is replaced. What a method wants to see of a layer is
caught by hooks that live as long as that one call.

A summary token ([CLS], the first of each frame) takes part in every layer's attention, as one token. Methods
see patches only: no states, projections or sizes of it, and attention as it is among the patches. So it is
never merged with a patch nor dropped. Frames that become one have one summary, in the weights of the frames.
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
from streamprune.models.layer_halves import PlainLayer, layers_of
from streamprune.models.tower_witness import tower_witness

# kernels that take a logit for each key
_BIASED_ATTENTION = ("sdpa", "eager")
# what embeddings call the summary token
SUMMARIES = ("class_embedding", "cls_token")


@dataclass(frozen=True)
class TowerRun:
    """What came out of a tower.

    Attributes:
        states: at each wanted depth (frames, tokens, width), read back to all patches; where the tower has a
            summary token, it is the first of a frame.
        tokens: for each layer the number of tokens, over all frames, that entered it, summaries among them.
    """

    states: tuple[torch.Tensor, ...] = field(repr=False)
    tokens: tuple[int, ...]

    @property
    def share(self) -> float:
        """Share of a plain tower's tokens that was computed, over all layers."""
        frames, tokens = self.states[0].shape[:2]
        return sum(self.tokens) / (frames * tokens * max(1, len(self.tokens)))


class VisionLayers:
    """The layers of a SigLIP, CLIP or InternVL tower: one grid of patches per frame, at most one summary.

    Args:
        tower: a stock vision model.
        name: of the model, for messages.
        embed: what makes tokens of pictures; when None, the tower's ``embeddings`` and, where it has one, the
            norm before the first layer.
    """

    def __init__(
        self, tower: Any, name: str, embed: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> None:
        layers = layers_of(tower)
        if not layers:
            raise UnsupportedModelError(
                f"encoder methods run in SigLIP, CLIP and InternVL towers; {name!r} has a "
                f"{type(tower).__name__}. Leave out the encoder stage."
            )
        self._tower = tower
        self._embed: Any = _embed_of(tower) if embed is None else embed
        self._layers = layers
        self._name = name
        self._summary = any(hasattr(tower.embeddings, one) for one in SUMMARIES)

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
        shape = TowerShape(max(depths), (states.shape[1] - self._summary) // cols, cols)
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
        climb = _Climb(method, shape, states, self._summary)
        reached = {0: states}
        tokens = []
        for number in range(shape.depth):
            tokens.append(climb.states.shape[0] * climb.states.shape[1])
            climb.through(number, self._layers[number])
            if number + 1 in depths:
                reached[number + 1] = climb.spread()
        witness = tower_witness()
        if witness is not None:
            patches = [count - self._summary * len(states) for count in tokens]
            witness.climbed(shape, len(states), climb.steps, patches)
        return TowerRun(tuple(reached[depth] for depth in depths), tuple(tokens))


class _Climb:
    """Where one run stands between two layers."""

    def __init__(self, method: EncoderMethod, shape: TowerShape, states: torch.Tensor, summary: bool) -> None:
        self.method = method
        self.shape = shape
        self.states = states
        self.size: torch.Tensor | None = None
        # what the layers that decided made of the tokens
        self.steps: list[tuple[int, TokenMap]] = []
        # where the patches of a frame begin
        self._first = int(summary)
        # the frame that each one of the beginning is in now
        self._frames = torch.arange(len(states), device=states.device)
        self._acting = method.acting_layers(shape)
        self._origin = torch.arange(shape.tokens, device=states.device).expand(len(states), -1)
        self._carried = method.begin(states[:, self._first :], shape)

    def through(self, number: int, layer: PlainLayer) -> None:
        """Go through ``layer``, with a decision inside or after it where the method acts."""
        bias = self.size.log() if self.size is not None and self.method.weighs_keys else None
        mask = None if bias is None else self._mask(bias)
        if number not in self._acting:
            self.states = layer.whole(self.states, mask)
            return
        with _caught(layer, self.method.needs) as caught:
            half = layer.whole if self.method.place == "after" else layer.attend
            self.states = half(self.states, mask)
        attention = layer.attention
        projections = {
            name: _by_head(value, attention.num_heads)[:, :, self._first :] for name, value in caught.items()
        }
        self._decide(number, LayerSignals(**projections, scaling=attention.scale, bias=bias))
        if self.method.place == "inside":
            self.states = layer.feed(self.states)

    def spread(self) -> torch.Tensor:
        """The states, read back to all patches of all frames."""
        if not self.steps:
            return self.states
        patches = read_back([step for _, step in self.steps], self.states[:, self._first :])
        if not self._first:
            return patches
        return torch.cat([self.states[:, :1][self._frames], patches], 1)

    def _mask(self, bias: torch.Tensor) -> torch.Tensor:
        """(frames, 1, 1, tokens): nothing is added for a summary, which stands for itself."""
        whole = torch.nn.functional.pad(bias, (self._first, 0))
        return whole[:, None, None].to(self.states.dtype)

    def _decide(self, number: int, signals: LayerSignals) -> None:
        patches = self.states[:, self._first :]
        found = LayerInput(self.shape, number, patches, self.size, self._origin, signals, self._carried)
        decision = self.method.reduce_layer(found)
        self._carried = decision.carried
        if decision.step is not None:
            self._take(decision.step, patches)
            self.steps.append((number, decision.step))
            self.size = decision.size

    def _take(self, step: TokenMap, patches: torch.Tensor) -> None:
        """Let ``step`` carry the patches, and the summaries where it makes frames fewer."""
        summaries = self.states[:, : self._first]
        if self._first and len(step.index) < len(summaries):
            summaries = step.apply(summaries.expand(-1, patches.shape[1], -1))[:, :1]
        left = step.apply(patches)
        self.states = torch.cat([summaries, left], 1) if self._first else left
        self._frames = (step.slot[:, 0] // step.index.shape[1])[self._frames]
        self._origin = self._origin.flatten()[step.index]


def feature_depths(chosen: int | Sequence[int], layers: int) -> tuple[int, ...]:
    """How many of ``layers`` stand before each of the states that a ``vision_feature_layer`` names."""
    wanted = [chosen] if isinstance(chosen, int) else chosen
    return tuple(number if number >= 0 else layers + 1 + number for number in wanted)


def _embed_of(tower: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What stands before the first layer."""
    # so the attribute is spelt in transformers
    norm = getattr(tower, "pre_layrnorm", None)

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = tower.embeddings(pixels)
        return embedded if norm is None else norm(embedded)

    return embed


@contextmanager
def _caught(layer: PlainLayer, names: Sequence[str]) -> Iterator[dict[str, torch.Tensor]]:
    """Catch the outputs of the projections ``names`` while ``layer`` runs; leaves no hook behind."""
    found: dict[str, torch.Tensor] = {}
    handles = []
    for name in names:

        def keep(module: Any, given: Any, output: torch.Tensor, name: str = name) -> None:
            found[name] = output

        handles.append(getattr(layer.attention, layer.projections[name]).register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _by_head(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """(frames, tokens, width) -> (frames, heads, tokens, dim)."""
    frames, tokens, width = projected.shape
    return projected.reshape(frames, tokens, heads, width // heads).transpose(1, 2)
