"""What an encoder method is: options, the layers it acts in, and one decision per layer.

To add one: a file in this folder with a frozen keyword-only dataclass, a line in
``streamprune/catalog/encoder.py`` and a row in ``tests/encoder/table.py``.
``streamprune.models.vision_layers`` runs the layers of a tower.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch

from streamprune.checks import check_count, check_flag
from streamprune.encoder.layer_attention import LayerAttention
from streamprune.encoder.token_map import TokenMap
from streamprune.errors import InvalidTypeError, InvalidValueError

Place = Literal["inside", "after"]


@dataclass(frozen=True)
class TowerShape:
    """A vision tower as far as the features: ``depth`` layers over frames of ``rows`` x ``cols`` patches."""

    depth: int
    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        """Patches of a frame."""
        return self.rows * self.cols


@dataclass(frozen=True, eq=False)
class LayerSignals:
    """What happened inside one layer; what the method's ``needs`` do not name is None.

    Attributes:
        queries, keys, values: (frames, heads, tokens, dim) projections as they entered the attention.
        scaling: factor of the inner products of queries and keys.
        bias: (frames, tokens) that was added to the logits of each key, None = nothing.
    """

    queries: torch.Tensor | None = field(default=None, repr=False)
    keys: torch.Tensor | None = field(default=None, repr=False)
    values: torch.Tensor | None = field(default=None, repr=False)
    scaling: float = 1.0
    bias: torch.Tensor | None = field(default=None, repr=False)

    def get(self, name: Literal["queries", "keys", "values"]) -> torch.Tensor:
        """The projection ``name``, float32; InvalidValueError when the method did not say it needs it."""
        value: torch.Tensor | None = getattr(self, name)
        if value is None:
            raise InvalidValueError(f"{name} was not computed; name it in the method's needs")
        return value.float()

    def mean_keys(self) -> torch.Tensor:
        """(frames, tokens, dim) float32: keys averaged over the heads."""
        return self.get("keys").mean(1)

    def attention(self) -> LayerAttention:
        """The layer's attention; needs queries and keys."""
        return LayerAttention(self.get("queries"), self.get("keys"), self.scaling, self.bias)


@dataclass(frozen=True, eq=False)
class LayerInput:
    """Where a tower stands when a method decides.

    Attributes:
        tower: the whole tower.
        layer: number of the layer, from 0.
        states: (frames, tokens, width).
        size: (frames, tokens) float32, how much each token stands for; None = one each.
        origin: (frames, tokens) int64, the patch of its frame that each token stands for.
        signals: what happened inside this layer.
        carried: what the method handed on from its last decision, or from ``begin``.
    """

    tower: TowerShape
    layer: int
    states: torch.Tensor = field(repr=False)
    size: torch.Tensor | None = field(repr=False)
    origin: torch.Tensor = field(repr=False)
    signals: LayerSignals
    carried: Any = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """Tokens of a frame that enter."""
        return int(self.states.shape[1])

    def sizes(self) -> torch.Tensor:
        """``size`` written out."""
        if self.size is not None:
            return self.size
        return torch.ones(self.states.shape[:2], device=self.states.device)


@dataclass(frozen=True, eq=False)
class LayerReduction:
    """What a method decided in one layer.

    Args:
        step: where the tokens go; None = all stay.
        size: (frames out, tokens out) float32, the new sizes; None = one each.
        carried: handed on to the method's next decision.
    """

    step: TokenMap | None = None
    size: torch.Tensor | None = None
    carried: Any = None


class TowerMethod:
    """Whatever a recipe's encoder stage can name.

    Class attributes:
        needs: what it reads of each layer.
        causal: a frame is encoded without looking at later frames.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class EncoderMethod(TowerMethod, ABC):
    """Makes a vision tower cheaper by letting fewer tokens, or fewer frames, through its later layers.

    The tower's last states are read back to the full grid of patches, so that everything behind it works as
    before. A summary token, where the tower has one, always stays and is not shown to methods: states,
    projections, sizes and the attention computed from them are those of patches. Subclasses add options as
    fields and implement :meth:`reduce_layer`.

    Args:
        layers: numbers of the layers it acts in, from 0, ascending; None = the method's own choice for the
            depth at hand.

    Class attributes:
        needs: which of "queries", "keys", "values" :meth:`reduce_layer` reads from the signals.
        place: "inside" acts between attention and feed-forward, "after" acts on what leaves the layer.
    """

    layers: tuple[int, ...] | None = None

    place: ClassVar[Place] = "inside"

    def __post_init__(self) -> None:
        for option in fields(self):
            if isinstance(option.default, bool):
                check_flag(option.name, getattr(self, option.name))
        if self.layers is None:
            return
        if isinstance(self.layers, str) or not isinstance(self.layers, Sequence):
            raise InvalidTypeError(f"layers must be a list of layer numbers from 0, got {self.layers!r}")
        for layer in self.layers:
            check_count("layers", layer, least=0)
        if list(self.layers) != sorted(set(self.layers)):
            raise InvalidValueError(f"layers must be ascending, each once, got {tuple(self.layers)}")
        # TOML gives lists
        object.__setattr__(self, "layers", tuple(self.layers))

    @property
    def weighs_keys(self) -> bool:
        """Whether attention adds the logarithm of token sizes, as the option ``proportional`` says."""
        return bool(getattr(self, "proportional", False))

    @property
    def frame_by_frame(self) -> bool:
        """Whether frames may keep different numbers of tokens, so that each has to run alone."""
        return False

    def acting_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """Layers in which :meth:`reduce_layer` is asked; InvalidValueError when the tower is not so deep."""
        if self.layers is None:
            return self.own_layers(tower)
        if self.layers and self.layers[-1] >= tower.depth:
            raise InvalidValueError(
                f"layers must be below {tower.depth}, the layers this tower runs, got {self.layers}"
            )
        return self.layers

    def own_layers(self, tower: TowerShape) -> tuple[int, ...]:
        """:meth:`acting_layers` when the user named none: every layer."""
        return tuple(range(tower.depth))

    def changes_nothing(self, tower: TowerShape) -> bool:
        """Whether the options keep every token whatever the content."""
        return self.counts(tower) == (tower.tokens,) * tower.depth

    def counts(self, tower: TowerShape) -> tuple[int, ...] | None:
        """Tokens of a frame that leave each layer, or None when that depends on the content."""
        acting, tokens, left = self.acting_layers(tower), tower.tokens, []
        for layer in range(tower.depth):
            if layer in acting:
                after = self.left_over(layer, tokens, tower)
                if after is None:
                    return None
                tokens = after
            left.append(tokens)
        return tuple(left)

    @abstractmethod
    def left_over(self, layer: int, tokens: int, tower: TowerShape) -> int | None:
        """How many of a frame's ``tokens`` leave acting ``layer``; None when that depends on the content."""

    def begin(self, states: torch.Tensor, tower: TowerShape) -> Any:
        """What :meth:`reduce_layer` finds in ``carried`` the first time, from the states before layer 0."""
        return None

    @abstractmethod
    def reduce_layer(self, at: LayerInput) -> LayerReduction:
        """Decide in one of the acting layers; changes nothing that it is given."""


def scaled_layers(numbers: Sequence[int], out_of: int, depth: int) -> tuple[int, ...]:
    """Layers that were chosen for a tower of ``out_of`` layers, at the same share of ``depth`` layers."""
    return tuple(sorted({number * depth // out_of for number in numbers}))


def scaled_count(count: int, out_of: int, tokens: int) -> int:
    """A number that was chosen for ``out_of`` tokens, at the same share of ``tokens``."""
    return round(tokens * count / out_of)
