"""What methods share that drop visual tokens several times, at layers and to shares of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streamprune.budget import share_of
from streamprune.checks import check_number
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.base import InLLMMethod, scaled_layer
from streamprune.in_llm.layer_list import check_layers


@dataclass(frozen=True, kw_only=True)
class StagedMethod(InLLMMethod):
    """Drops visual tokens in stages; subclasses say in :meth:`decide` which.

    Args:
        layers: the layers before which tokens are dropped; None = the published ones, scaled to the depth.
            Where that makes one layer of several, it is the last of their stages.
        shares: share of the ORIGINAL visual tokens kept at each of them, in [0, 1], not rising; None = the
            published ones. With ``keep_ratio`` or ``keep_tokens`` the shares fall by the same factor at every
            layer, to what is left after the last.

    Numbers of tokens are cut off to integers, and never 0 but for a share of 0.

    Class attributes:
        published: (layer, share) of each stage, for a model of ``published_depth`` layers.
    """

    layers: tuple[int, ...] | None = None
    shares: tuple[float, ...] | None = None

    published: ClassVar[tuple[tuple[int, float], ...]] = ()
    published_depth: ClassVar[int] = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        stages = len(self.published) if self.layers is None else len(self.layers)
        if self.shares is not None:
            object.__setattr__(self, "shares", check_shares(self.shares))
            if self.budget.is_given:
                raise InvalidValueError(
                    "shares say how much stays, and so does keep_ratio or keep_tokens; give one"
                )
            if len(self.shares) != stages:
                raise InvalidValueError(
                    f"shares must hold {stages} numbers, one for each of the layers, got {self.shares}"
                )
        elif stages != len(self.published) and not self.budget.is_given:
            raise InvalidValueError(
                f"layers must be {len(self.published)} where none of shares, keep_ratio and keep_tokens is "
                f"given, got {self.layers}"
            )

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The layers as given, or the published ones."""
        return self.layers or tuple(sorted(set(self._scaled(depth))))

    def stage(self, cut: int, depth: int) -> int:
        """Which of the published stages decision ``cut`` is, from 0; the last, of more layers than those."""
        if self.layers is not None:
            return min(cut, len(self.published) - 1)
        scaled = self._scaled(depth)
        return max(stage for stage, layer in enumerate(scaled) if layer == self.cuts(depth)[cut])

    def count(self, cut: int, depth: int, visual: int) -> int:
        """Visual tokens, of ``visual`` at first, that are left after decision ``cut``."""
        if self.budget.is_given:
            cuts = len(self.cuts(depth))
            if cut == cuts - 1:
                return self.budget.tokens(visual)
            share = self.budget.share(visual) ** ((cut + 1) / cuts)
        else:
            number = cut if self.layers is not None else self.stage(cut, depth)
            share = self.published[number][1] if self.shares is None else self.shares[number]
        return 0 if share == 0 else max(1, share_of(visual, share))

    def _scaled(self, depth: int) -> tuple[int, ...]:
        return tuple(scaled_layer(layer, self.published_depth, depth) for layer, _ in self.published)


def check_shares(shares: object) -> tuple[float, ...]:
    """``shares`` as a tuple (TOML gives lists); refuse anything but numbers in [0, 1] that do not rise."""
    if isinstance(shares, str) or not isinstance(shares, Sequence):
        raise InvalidTypeError(f"shares must be a list of numbers in [0, 1], got {shares!r}")
    for share in shares:
        check_number("shares", share, 0, 1)
    if list(shares) != sorted(shares, reverse=True):
        raise InvalidValueError(f"shares must not rise, got {tuple(shares)}")
    return tuple(shares)
